//! A client of Holdfast in Rust: one function for each thing a client does, each printing one line.
//!
//! It is told where the services are by HOLDFAST_INVOKER and HOLDFAST_APPROVAL, and its tenant as argument.

#[allow(clippy::all)]
mod holdfast {
    tonic::include_proto!("holdfast.v1");
}

use holdfast::approval_service_client::ApprovalServiceClient;
use holdfast::batch_service_client::BatchServiceClient;
use holdfast::converse_request::Message as Ask;
use holdfast::converse_response::Update;
use holdfast::create_batch_request::Message as Upload;
use holdfast::event_service_client::EventServiceClient;
use holdfast::invoker_service_client::InvokerServiceClient;
use holdfast::run_event::Event;
use holdfast::*;
use prost_types::value::Kind;
use prost_types::{Duration, ListValue, Struct, Value};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;
type Tenanted = InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>;

#[tokio::main]
async fn main() -> Fallible<()> {
    let place = dial("HOLDFAST_INVOKER").await?;
    let mut invoker = InvokerServiceClient::with_interceptor(place.clone(), tenanted as fn(_) -> _);
    invoke(&mut invoker).await?;
    converse(&mut invoker).await?;
    stop(&mut invoker).await?;
    publish(place.clone()).await?;
    approve(&mut invoker, dial("HOLDFAST_APPROVAL").await?).await?;
    batch(place).await
}

/// Starts a run and waits for it; the same key finds it again, and what is wrong is refused by name.
async fn invoke(invoker: &mut InvokerServiceClient<Tenanted>) -> Fallible<()> {
    let request = InvokeRequest {
        intent: "polyglot.greet".into(),
        idempotency_key: "greeting".into(),
        payload: Some(object("name", text("Ada"))),
        wait: Some(Duration { seconds: 20, nanos: 0 }),
        ..Default::default()
    };
    let first = invoker.invoke(request.clone()).await?.into_inner().run.unwrap_or_default();
    let result = string(first.outcome.clone().and_then(|outcome| outcome.result));
    println!("invoked: {} {result}", name(first.status().as_str_name()));

    let again = invoker.invoke(request.clone()).await?.into_inner();
    let same = again.run.unwrap_or_default().run_id == first.run_id;
    println!("again: {} {same}", again.reattached);

    let other = InvokeRequest { payload: Some(object("name", text("Bob"))), ..request };
    let reused = invoker.invoke(other).await.expect_err("it was not refused");
    let info = reused.get_details_error_info().ok_or("no ErrorInfo")?;
    let held = info.metadata.get("run_id") == Some(&first.run_id);
    println!("refused: {} {} {held}", reused.code() as i32, info.reason);

    let malformed = InvokeRequest { intent: "not an intent".into(), ..Default::default() };
    let malformed = invoker.invoke(malformed).await.expect_err("it was not refused");
    let reason = malformed.get_details_error_info().ok_or("no ErrorInfo")?.reason;
    let fields = malformed.get_details_bad_request().ok_or("no BadRequest")?.field_violations;
    let fields: Vec<_> = fields.into_iter().map(|each| each.field).collect();
    println!("malformed: {} {reason} {}", malformed.code() as i32, fields.join(","));
    Ok(())
}

/// Follows a run, loses the stream, and goes on after the last event it has seen.
async fn converse(invoker: &mut InvokerServiceClient<Tenanted>) -> Fallible<()> {
    let words = ["one", "two", "three"].map(text).to_vec();
    let words = Value { kind: Some(Kind::ListValue(ListValue { values: words })) };
    let (requests, mut responses) = start(invoker, "polyglot.recite", object("words", words)).await?;
    let mut held = Transcript::default();
    let mut run_id = String::new();
    while !held.text().ends_with("three ") {
        match responses.message().await?.ok_or("the stream is over")?.update {
            Some(Update::Started(started)) => run_id = started.run.unwrap_or_default().run_id,
            update => held.take(update),
        }
    }
    println!("streamed: {}", held.text());
    drop((requests, responses)); // which cancels the call

    let last = held.events.last().ok_or("no event")?;
    let (after_sequence, after_epoch) = (last.sequence, last.epoch);
    let attach = ConverseAttach { run_id, after_sequence, after_epoch, ..Default::default() };
    let (requests, mut responses) = conversation(invoker, Ask::Attach(attach)).await?;
    let input = ConverseInput { payload: Some(text("four")), signal_id: "more".into(), ..Default::default() };
    requests.send(ConverseRequest { message: Some(Ask::Input(input)) }).await?;
    let mut signalled = String::new();
    while held.end().is_none() {
        match responses.message().await?.ok_or("the stream is over")?.update {
            Some(Update::Signalled(told)) => signalled += &told.signal_id,
            update => held.take(update),
        }
    }
    let status = held.end().unwrap_or_default().status();
    println!("resumed: {} {signalled} {} {}", held.text(), held.whole(), name(status.as_str_name()));
    Ok(())
}

/// Asks a run to stop while it speaks.
async fn stop(invoker: &mut InvokerServiceClient<Tenanted>) -> Fallible<()> {
    let (requests, mut responses) = start(invoker, "polyglot.drone", Struct::default()).await?;
    let mut held = Transcript::default();
    while held.end().is_none() {
        let silent = held.text().is_empty();
        held.take(responses.message().await?.ok_or("the stream is over")?.update);
        if silent && !held.text().is_empty() {
            let cancel = Ask::Cancel(ConverseCancel { reason: "enough".into() });
            requests.send(ConverseRequest { message: Some(cancel) }).await?;
        }
    }
    println!("stopped: {}", name(held.end().unwrap_or_default().status().as_str_name()));
    Ok(())
}

/// Sends three events, of which the second is the first delivered twice and the third nobody serves.
async fn publish(place: Channel) -> Fallible<()> {
    let event = InvokeRequest {
        intent: "polyglot.greet".into(),
        idempotency_key: "event-1".into(),
        payload: Some(object("name", text("Eve"))),
        ..Default::default()
    };
    let stray = InvokeRequest {
        intent: "polyglot.nobody".into(),
        idempotency_key: "event-2".into(),
        ..Default::default()
    };
    let request = PublishEventsRequest { events: vec![event.clone(), event, stray] };
    let mut events = EventServiceClient::with_interceptor(place, tenanted);
    let results = events.publish_events(request).await?.into_inner().results;
    let same = results[0].run_id == results[1].run_id;
    let reason = results[2].refusal.clone().unwrap_or_default().reason;
    println!("published: {} {} {same} {reason}", results[0].duplicate, results[1].duplicate);
    Ok(())
}

/// Decides the gate a run waits at, as the user the credential names.
async fn approve(invoker: &mut InvokerServiceClient<Tenanted>, place: Channel) -> Fallible<()> {
    let mut approvals = ApprovalServiceClient::with_interceptor(place, tenanted);
    let amount = Value { kind: Some(Kind::NumberValue(40.0)) };
    let (_requests, mut responses) = start(invoker, "polyglot.order", object("amount", amount)).await?;
    let mut held = Transcript::default();
    while held.end().is_none() {
        held.take(responses.message().await?.ok_or("the stream is over")?.update);
        if let Some(Event::ApprovalRequested(gate)) = held.events.last().and_then(|last| last.event.clone()) {
            let mut decision = Request::new(DecideApprovalRequest {
                approval_id: gate.approval_id,
                verdict: ApprovalVerdict::Approve.into(),
                reason: "fine".into(),
                ..Default::default()
            });
            decision.metadata_mut().insert("holdfast-user", "ada".parse()?);
            approvals.decide_approval(decision).await?;
        }
    }
    println!("approved: {}", string(held.end().and_then(|outcome| outcome.result)));
    Ok(())
}

/// Uploads five items in two chunks, starts them, and watches until all have ended.
async fn batch(place: Channel) -> Fallible<()> {
    let mut batches = BatchServiceClient::with_interceptor(place, tenanted);
    let items: Vec<_> = (0..5)
        .map(|number| {
            let value = Value { kind: Some(Kind::NumberValue(number.into())) };
            BatchInput { key: format!("n{number}"), payload: Some(object("number", value)), ..Default::default() }
        })
        .collect();
    let invocation = InvokeRequest { intent: "polyglot.double".into(), ..Default::default() };
    let spec = BatchSpec {
        invocation: Some(invocation),
        idempotency_key: "numbers".into(),
        skip_staging: true,
        ..Default::default()
    };
    let messages = [
        Upload::Spec(spec),
        Upload::Chunk(BatchChunk { offset: 0, items: items[..3].to_vec() }),
        Upload::Chunk(BatchChunk { offset: 3, items: items[3..].to_vec() }),
        Upload::CompleteCount(5),
    ];
    let upload = tokio_stream::iter(messages.map(|message| CreateBatchRequest { message: Some(message) }));
    let created = batches.create_batch(upload).await?.into_inner();
    let batch_id = created.batch.unwrap_or_default().batch_id;
    batches.start_batch(StartBatchRequest { batch_id: batch_id.clone() }).await?;

    let request = WatchBatchRequest { batch_id: batch_id.clone(), ..Default::default() };
    let mut watch = batches.watch_batch(request).await?.into_inner();
    let mut last = WatchBatchResponse::default();
    while let Some(response) = watch.message().await? {
        last = response;
    }
    let request = ListBatchItemsRequest { batch_id, ..Default::default() };
    let items = batches.list_batch_items(request).await?.into_inner().items;
    let sum: f64 = items.into_iter().filter_map(|item| doubled(item.output?)).sum();
    let counts = last.progress.unwrap_or_default().counts;
    let (status, first) = (last.batch.unwrap_or_default().status(), counts[0].status());
    let (status, first) = (name(status.as_str_name()), name(first.as_str_name()));
    println!("batch: {status} {} {first} {} {sum}", counts.len(), counts[0].count);
    Ok(())
}

/// What a stream has told of a run: the true transcript, if Rewound is obeyed.
#[derive(Default)]
struct Transcript {
    events: Vec<RunEvent>,
}

impl Transcript {
    fn take(&mut self, update: Option<Update>) {
        match update {
            Some(Update::Event(event)) => self.events.push(event),
            Some(Update::Rewound(rewound)) => self.events.retain(|event| event.sequence <= rewound.to_sequence),
            _ => {}
        }
    }

    fn text(&self) -> String {
        let piece = |event: &RunEvent| match &event.event {
            Some(Event::Token(token)) => token.text.clone(),
            _ => String::new(),
        };
        self.events.iter().map(piece).collect()
    }

    fn end(&self) -> Option<Outcome> {
        match &self.events.last()?.event {
            Some(Event::Ended(ended)) => ended.outcome.clone(),
            _ => None,
        }
    }

    fn whole(&self) -> bool {
        self.events.iter().zip(1..).all(|(event, sequence)| event.sequence == sequence)
    }
}

type Conversation = (mpsc::Sender<ConverseRequest>, Streaming<ConverseResponse>);

async fn start(
    invoker: &mut InvokerServiceClient<Tenanted>,
    intent: &str,
    payload: Struct,
) -> Fallible<Conversation> {
    let invocation = InvokeRequest { intent: intent.into(), payload: Some(payload), ..Default::default() };
    let start = ConverseStart { invocation: Some(invocation), ..Default::default() };
    conversation(invoker, Ask::Start(start)).await
}

async fn conversation(invoker: &mut InvokerServiceClient<Tenanted>, first: Ask) -> Fallible<Conversation> {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(ConverseRequest { message: Some(first) }).await?;
    let responses = invoker.converse(ReceiverStream::new(receiver)).await?.into_inner();
    Ok((sender, responses))
}

/// Names the tenant in each call.
fn tenanted(mut request: Request<()>) -> Result<Request<()>, Status> {
    let tenant = std::env::args().nth(1).unwrap_or_default();
    let tenant = MetadataValue::try_from(tenant).map_err(|_| Status::invalid_argument("no tenant"))?;
    request.metadata_mut().insert("holdfast-tenant", tenant);
    request.set_timeout(std::time::Duration::from_secs(60));
    Ok(request)
}

async fn dial(variable: &str) -> Fallible<Channel> {
    let address = format!("http://{}", std::env::var(variable)?);
    Ok(Endpoint::from_shared(address)?.connect().await?)
}

fn object(key: &str, value: Value) -> Struct {
    Struct { fields: [(key.to_owned(), value)].into() }
}

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.into())) }
}

fn string(value: Option<Value>) -> String {
    match value.and_then(|value| value.kind) {
        Some(Kind::StringValue(text)) => text,
        other => format!("{other:?}"),
    }
}

fn doubled(output: Value) -> Option<f64> {
    match output.kind? {
        Kind::StructValue(mut object) => match object.fields.remove("double")?.kind? {
            Kind::NumberValue(number) => Some(number),
            _ => None,
        },
        _ => None,
    }
}

/// Says an enum's value without the prefix.
fn name(value: &str) -> &str {
    value.rsplit_once("STATUS_").map_or(value, |(_, name)| name)
}
