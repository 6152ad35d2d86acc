package session;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.ListValue;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import dev.holdfast.v1.*;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import io.grpc.stub.MetadataUtils;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * A client of Holdfast in Java: one method for each thing a client does, each printing one line.
 *
 * <p>It is told where the services are by HOLDFAST_INVOKER and HOLDFAST_APPROVAL, and its tenant as argument.
 */
public class Session {
  private final Channel invoker;
  private final Channel approval;
  private final InvokerServiceGrpc.InvokerServiceBlockingStub runs;

  Session(Channel invoker, Channel approval) {
    this.invoker = invoker;
    this.approval = approval;
    this.runs = InvokerServiceGrpc.newBlockingStub(invoker).withDeadlineAfter(60, TimeUnit.SECONDS);
  }

  public static void main(String[] arguments) throws Exception {
    var invoker = dial("HOLDFAST_INVOKER");
    var approval = dial("HOLDFAST_APPROVAL");
    var session = new Session(with(invoker, "holdfast-tenant", arguments[0]), with(approval, "holdfast-tenant", arguments[0]));
    session.invoke();
    session.converse();
    session.stop();
    session.publish();
    session.approve();
    session.batch();
    invoker.shutdownNow();
    approval.shutdownNow();
  }

  /** Starts a run and waits for it; the same key finds it again, and what is wrong is refused by name. */
  void invoke() throws Exception {
    var request = InvokeRequest.newBuilder().setIntent("polyglot.greet").setIdempotencyKey("greeting")
        .setPayload(object("name", text("Ada"))).setWait(Duration.newBuilder().setSeconds(20)).build();
    var first = runs.invoke(request).getRun();
    say("invoked", name(first.getStatus()), first.getOutcome().getResult().getStringValue());

    var again = runs.invoke(request);
    say("again", again.getReattached(), again.getRun().getRunId().equals(first.getRunId()));

    var reused = refusal(request.toBuilder().setPayload(object("name", text("Bob"))).build());
    say("refused", reused.code, reused.info.getReason(),
        reused.info.getMetadataOrDefault("run_id", "").equals(first.getRunId()));

    var malformed = refusal(InvokeRequest.newBuilder().setIntent("not an intent").build());
    say("malformed", malformed.code, malformed.info.getReason(), String.join(",", malformed.fields));
  }

  /** Follows a run, loses the stream, and goes on after the last event it has seen. */
  void converse() throws Exception {
    var words = ListValue.newBuilder().addValues(text("one")).addValues(text("two")).addValues(text("three"));
    var held = new Transcript();
    var broken = start("polyglot.recite", object("words", Value.newBuilder().setListValue(words).build()));
    var runId = broken.next().getStarted().getRun().getRunId();
    while (!held.text().endsWith("three ")) {
      held.take(broken.next());
    }
    say("streamed", held.text());
    broken.requests.cancel("the connection is lost", null);

    var resumed = new Conversation(invoker);
    var last = held.last();
    resumed.requests.onNext(ConverseRequest.newBuilder().setAttach(ConverseAttach.newBuilder().setRunId(runId)
        .setAfterSequence(last.getSequence()).setAfterEpoch(last.getEpoch())).build());
    resumed.requests.onNext(ConverseRequest.newBuilder()
        .setInput(ConverseInput.newBuilder().setPayload(text("four")).setSignalId("more")).build());
    var signalled = "";
    while (!held.hasEnded()) {
      var response = resumed.next();
      held.take(response);
      signalled += response.getSignalled().getSignalId();
    }
    resumed.requests.onCompleted();
    say("resumed", held.text(), signalled, held.isWhole(), name(held.end().getStatus()));
  }

  /** Asks a run to stop while it speaks. */
  void stop() throws Exception {
    var held = new Transcript();
    var stream = start("polyglot.drone", Struct.getDefaultInstance());
    while (!held.hasEnded()) {
      var silent = held.text().isEmpty();
      held.take(stream.next());
      if (silent && !held.text().isEmpty()) {
        stream.requests.onNext(ConverseRequest.newBuilder()
            .setCancel(ConverseCancel.newBuilder().setReason("enough")).build());
      }
    }
    stream.requests.onCompleted();
    say("stopped", name(held.end().getStatus()));
  }

  /** Sends three events, of which the second is the first delivered twice and the third nobody serves. */
  void publish() {
    var event = InvokeRequest.newBuilder().setIntent("polyglot.greet").setIdempotencyKey("event-1")
        .setPayload(object("name", text("Eve")));
    var stray = InvokeRequest.newBuilder().setIntent("polyglot.nobody").setIdempotencyKey("event-2");
    var results = EventServiceGrpc.newBlockingStub(invoker).publishEvents(
        PublishEventsRequest.newBuilder().addEvents(event).addEvents(event).addEvents(stray).build());
    var first = results.getResults(0);
    var second = results.getResults(1);
    say("published", first.getDuplicate(), second.getDuplicate(), first.getRunId().equals(second.getRunId()),
        results.getResults(2).getRefusal().getReason());
  }

  /** Decides the gate a run waits at, as the user the credential names. */
  void approve() throws Exception {
    var held = new Transcript();
    var ada = ApprovalServiceGrpc.newBlockingStub(with(approval, "holdfast-user", "ada"));
    var stream = start("polyglot.order", object("amount", Value.newBuilder().setNumberValue(40).build()));
    while (!held.hasEnded()) {
      var response = stream.next();
      held.take(response);
      if (response.getEvent().hasApprovalRequested()) {
        ada.decideApproval(DecideApprovalRequest.newBuilder()
            .setApprovalId(response.getEvent().getApprovalRequested().getApprovalId())
            .setVerdict(ApprovalVerdict.APPROVAL_VERDICT_APPROVE).setReason("fine").build());
      }
    }
    stream.requests.onCompleted();
    say("approved", held.end().getResult().getStringValue());
  }

  /** Uploads five items in two chunks, starts them, and watches until all have ended. */
  void batch() throws Exception {
    var created = new Responses<CreateBatchRequest, CreateBatchResponse>();
    var upload = BatchServiceGrpc.newStub(invoker).createBatch(created);
    upload.onNext(CreateBatchRequest.newBuilder().setSpec(BatchSpec.newBuilder()
        .setInvocation(InvokeRequest.newBuilder().setIntent("polyglot.double"))
        .setIdempotencyKey("numbers").setSkipStaging(true)).build());
    for (var offset = 0; offset < 5; offset += 3) {
      var chunk = BatchChunk.newBuilder().setOffset(offset);
      IntStream.range(offset, Math.min(offset + 3, 5)).forEach(number -> chunk.addItems(BatchInput.newBuilder()
          .setKey("n" + number).setPayload(object("number", Value.newBuilder().setNumberValue(number).build()))));
      upload.onNext(CreateBatchRequest.newBuilder().setChunk(chunk).build());
    }
    upload.onNext(CreateBatchRequest.newBuilder().setCompleteCount(5).build());
    upload.onCompleted();
    var batchId = created.next().getBatch().getBatchId();

    var batches = BatchServiceGrpc.newBlockingStub(invoker).withDeadlineAfter(60, TimeUnit.SECONDS);
    batches.startBatch(StartBatchRequest.newBuilder().setBatchId(batchId).build());
    var last = WatchBatchResponse.getDefaultInstance();
    var watch = batches.watchBatch(WatchBatchRequest.newBuilder().setBatchId(batchId).build());
    while (watch.hasNext()) {
      last = watch.next();
    }
    var items = batches.listBatchItems(ListBatchItemsRequest.newBuilder().setBatchId(batchId).build());
    var sum = items.getItemsList().stream()
        .mapToLong(item -> (long) item.getOutput().getStructValue().getFieldsOrThrow("double").getNumberValue()).sum();
    var counts = last.getProgress().getCountsList();
    say("batch", name(last.getBatch().getStatus()), counts.size(), name(counts.get(0).getStatus()),
        counts.get(0).getCount(), sum);
  }

  private Conversation start(String intent, Struct payload) {
    var conversation = new Conversation(invoker);
    conversation.requests.onNext(ConverseRequest.newBuilder().setStart(ConverseStart.newBuilder()
        .setInvocation(InvokeRequest.newBuilder().setIntent(intent).setPayload(payload))).build());
    return conversation;
  }

  /** What comes over a stream, to be waited for; an error of the call is thrown to who waits. */
  private static class Responses<Q, R> implements ClientResponseObserver<Q, R> {
    private final LinkedBlockingQueue<Object> arrived = new LinkedBlockingQueue<>();
    ClientCallStreamObserver<Q> requests;

    @Override
    public void beforeStart(ClientCallStreamObserver<Q> requests) {
      this.requests = requests;
    }

    @Override
    public void onNext(R response) {
      arrived.add(response);
    }

    @Override
    public void onError(Throwable error) {
      arrived.add(error);
    }

    @Override
    public void onCompleted() {
      arrived.add(new IllegalStateException("the stream is over"));
    }

    @SuppressWarnings("unchecked")
    R next() throws Exception {
      var next = arrived.poll(60, TimeUnit.SECONDS);
      if (next == null || next instanceof Throwable) {
        throw new Exception("no response", (Throwable) next);
      }
      return (R) next;
    }
  }

  private static class Conversation extends Responses<ConverseRequest, ConverseResponse> {
    Conversation(Channel invoker) {
      InvokerServiceGrpc.newStub(invoker).converse(this);
    }
  }

  /** What a stream has told of a run: the true transcript, if Rewound is obeyed. */
  private static class Transcript {
    private final List<RunEvent> events = new ArrayList<>();

    void take(ConverseResponse response) {
      if (response.hasEvent()) {
        events.add(response.getEvent());
      }
      if (response.hasRewound()) {
        events.removeIf(event -> event.getSequence() > response.getRewound().getToSequence());
      }
    }

    String text() {
      return events.stream().map(event -> event.getToken().getText()).collect(Collectors.joining());
    }

    RunEvent last() {
      return events.get(events.size() - 1);
    }

    boolean hasEnded() {
      return !events.isEmpty() && last().hasEnded();
    }

    Outcome end() {
      return last().getEnded().getOutcome();
    }

    boolean isWhole() {
      return IntStream.range(0, events.size()).allMatch(at -> events.get(at).getSequence() == at + 1);
    }
  }

  private record Refusal(int code, ErrorInfo info, List<String> fields) {}

  /** Makes a call that is refused, and reads why: its code, its ErrorInfo, and the malformed fields. */
  private Refusal refusal(InvokeRequest request) throws InvalidProtocolBufferException {
    try {
      runs.invoke(request);
    } catch (StatusRuntimeException error) {
      var info = ErrorInfo.getDefaultInstance();
      var fields = new ArrayList<String>();
      for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          info = detail.unpack(ErrorInfo.class);
        } else if (detail.is(BadRequest.class)) {
          detail.unpack(BadRequest.class).getFieldViolationsList().forEach(each -> fields.add(each.getField()));
        }
      }
      return new Refusal(error.getStatus().getCode().value(), info, fields);
    }
    throw new AssertionError("it was not refused");
  }

  private static ManagedChannel dial(String variable) {
    return ManagedChannelBuilder.forTarget(System.getenv(variable)).usePlaintext().build();
  }

  /** Returns the channel with metadata on each call. */
  private static Channel with(Channel channel, String key, String value) {
    var metadata = new Metadata();
    metadata.put(Metadata.Key.of(key, Metadata.ASCII_STRING_MARSHALLER), value);
    return ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(metadata));
  }

  private static Struct object(String key, Value value) {
    return Struct.newBuilder().putFields(key, value).build();
  }

  private static Value text(String value) {
    return Value.newBuilder().setStringValue(value).build();
  }

  private static String name(Enum<?> value) {
    return value.name().substring(value.name().lastIndexOf("STATUS_") + "STATUS_".length());
  }

  private static void say(String what, Object... facts) {
    var told = new ArrayList<String>();
    for (Object fact : facts) {
      told.add(String.valueOf(fact));
    }
    System.out.println(what + ": " + String.join(" ", told));
  }
}
