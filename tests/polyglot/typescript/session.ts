// A client of Holdfast in TypeScript: one function for each thing a client does, each printing one line.
//
// It is told where the services are by HOLDFAST_INVOKER and HOLDFAST_APPROVAL, and its tenant as argument.
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import type { ProtoGrpcType as ApprovalTypes } from "./ts/approval_service";
import type { ProtoGrpcType as BatchTypes } from "./ts/batch_service";
import type { ProtoGrpcType as EventTypes } from "./ts/event_service";
import type { ConverseRequest } from "./ts/holdfast/v1/ConverseRequest";
import type { ConverseResponse__Output as ConverseResponse } from "./ts/holdfast/v1/ConverseResponse";
import type { InvokeRequest } from "./ts/holdfast/v1/InvokeRequest";
import type { RunEvent__Output as RunEvent } from "./ts/holdfast/v1/RunEvent";
import type { WatchBatchResponse__Output as WatchBatchResponse } from "./ts/holdfast/v1/WatchBatchResponse";
import type { ProtoGrpcType as InvokerTypes } from "./ts/invoker_service";

const options = { includeDirs: ["protos"], longs: String, enums: String, defaults: true };
const load = (file: string) => grpc.loadPackageDefinition(loadSync(`holdfast/v1/${file}.proto`, options)) as unknown;
const plain = grpc.credentials.createInsecure();
const place = process.env.HOLDFAST_INVOKER!;
const { InvokerService } = (load("invoker_service") as InvokerTypes).holdfast.v1;
const { EventService } = (load("event_service") as EventTypes).holdfast.v1;
const { BatchService } = (load("batch_service") as BatchTypes).holdfast.v1;
const { ApprovalService } = (load("approval_service") as ApprovalTypes).holdfast.v1;
const invoker = new InvokerService(place, plain);
const events = new EventService(place, plain);
const batches = new BatchService(place, plain);
const approvals = new ApprovalService(process.env.HOLDFAST_APPROVAL!, plain);

const tenant = new grpc.Metadata();
tenant.set("holdfast-tenant", process.argv[2]);
const within = () => ({ deadline: Date.now() + 60_000 });

// Starts a run and waits for it; the same key finds it again, and what is wrong is refused by name.
async function invoke() {
  const request: InvokeRequest = {
    intent: "polyglot.greet", idempotencyKey: "greeting", payload: object({ name: "Ada" }), wait: { seconds: 20 },
  };
  const first = await call<any>((done) => invoker.Invoke(request, tenant, within(), done));
  say("invoked", name(first.run.status), first.run.outcome.result.stringValue);

  const again = await call<any>((done) => invoker.Invoke(request, tenant, within(), done));
  say("again", again.reattached, again.run.runId === first.run.runId);

  const other = { ...request, payload: object({ name: "Bob" }) };
  const reused = await refusal(call((done) => invoker.Invoke(other, tenant, within(), done)));
  say("refused", reused.code, reused.reason, reused.metadata.run_id === first.run.runId);

  const bad = await refusal(call((done) => invoker.Invoke({ intent: "not an intent" }, tenant, within(), done)));
  say("malformed", bad.code, bad.reason, bad.fields.join(","));
}

// Follows a run, loses the stream, and goes on after the last event it has seen.
async function converse() {
  const held = new Transcript();
  const broken = conversation({ start: { invocation: {
    intent: "polyglot.recite", payload: object({ words: ["one", "two", "three"] }) } } });
  let runId = "";
  for await (const response of broken as AsyncIterable<ConverseResponse>) {
    runId ||= response.started?.run?.runId ?? "";
    held.take(response);
    if (held.text().endsWith("three ")) break; // which cancels the call
  }
  broken.cancel();
  say("streamed", held.text());

  const last = held.events[held.events.length - 1];
  const resumed = conversation(
    { attach: { runId, afterSequence: last.sequence, afterEpoch: last.epoch } },
    { input: { payload: { stringValue: "four" }, signalId: "more" } });
  let signalled = "";
  for await (const response of resumed as AsyncIterable<ConverseResponse>) {
    held.take(response);
    signalled += response.signalled?.signalId ?? "";
    if (held.ended) resumed.end();
  }
  say("resumed", held.text(), signalled, held.whole(), name(held.ended!.outcome!.status));
}

// Asks a run to stop while it speaks.
async function stop() {
  const held = new Transcript();
  const stream = conversation({ start: { invocation: { intent: "polyglot.drone" } } });
  for await (const response of stream as AsyncIterable<ConverseResponse>) {
    const silent = held.text() === "";
    held.take(response);
    if (silent && held.text() !== "") stream.write({ cancel: { reason: "enough" } });
    if (held.ended) stream.end();
  }
  say("stopped", name(held.ended!.outcome!.status));
}

// Sends three events, of which the second is the first delivered twice and the third nobody serves.
async function publish() {
  const event = { intent: "polyglot.greet", idempotencyKey: "event-1", payload: object({ name: "Eve" }) };
  const stray = { intent: "polyglot.nobody", idempotencyKey: "event-2" };
  const { results } = await call<any>((done) =>
    events.PublishEvents({ events: [event, event, stray] }, tenant, within(), done));
  say("published", results[0].duplicate, results[1].duplicate, results[0].runId === results[1].runId,
    results[2].refusal.reason);
}

// Decides the gate a run waits at, as the user the credential names.
async function approve() {
  const held = new Transcript();
  const ada = tenant.clone();
  ada.set("holdfast-user", "ada");
  const stream = conversation({ start: { invocation: { intent: "polyglot.order", payload: object({ amount: 40 }) } } });
  for await (const response of stream as AsyncIterable<ConverseResponse>) {
    held.take(response);
    const gate = response.event?.approvalRequested;
    if (gate) {
      const decision = { approvalId: gate.approvalId, verdict: "APPROVAL_VERDICT_APPROVE" as const, reason: "fine" };
      await call((done) => approvals.DecideApproval(decision, ada, within(), done));
    }
    if (held.ended) stream.end();
  }
  say("approved", held.ended!.outcome!.result!.stringValue);
}

// Uploads five items in two chunks, starts them, and watches until all have ended.
async function batch() {
  const batchId = (await call<any>((done) => {
    const upload = batches.CreateBatch(tenant, within(), done);
    upload.write({ spec: {
      invocation: { intent: "polyglot.double" }, idempotencyKey: "numbers", skipStaging: true } });
    const items = [0, 1, 2, 3, 4].map((number) => ({ key: `n${number}`, payload: object({ number }) }));
    for (const offset of [0, 3]) upload.write({ chunk: { offset, items: items.slice(offset, offset + 3) } });
    upload.write({ completeCount: 5 });
    upload.end();
  })).batch.batchId;
  await call((done) => batches.StartBatch({ batchId }, tenant, within(), done));
  let last: WatchBatchResponse | undefined;
  for await (const response of batches.WatchBatch({ batchId }, tenant, within())) last = response;
  const { items } = await call<any>((done) => batches.ListBatchItems({ batchId }, tenant, within(), done));
  const sum = items.reduce(
    (total: number, item: any) => total + item.output.structValue.fields.double.numberValue, 0);
  const counts = last!.progress!.counts;
  say("batch", name(last!.batch!.status), counts.length, name(counts[0].status), counts[0].count, sum);
}

// What a stream has told of a run: the true transcript, if Rewound is obeyed.
class Transcript {
  events: RunEvent[] = [];

  take(response: ConverseResponse) {
    if (response.event) this.events.push(response.event);
    if (response.rewound) {
      const last = BigInt(response.rewound.toSequence);
      this.events = this.events.filter((event) => BigInt(event.sequence) <= last);
    }
  }

  text = () => this.events.map((event) => event.token?.text ?? "").join("");
  whole = () => this.events.every((event, at) => event.sequence === String(at + 1));
  get ended() { return this.events.at(-1)?.ended; }
}

function conversation(...requests: ConverseRequest[]) {
  const stream = invoker.Converse(tenant, within());
  stream.on("error", () => {}); // who reads is told of it by the iterator
  for (const request of requests) stream.write(request);
  return stream;
}

// Awaits a unary answer.
function call<T>(start: (done: (error: grpc.ServiceError | null, answer?: T) => void) => unknown): Promise<T> {
  return new Promise((resolve, reject) => start((error, answer) => (error ? reject(error) : resolve(answer!))));
}

// The types of google.rpc that a refusal carries in its trailer, as far as they are read here.
const details = loadSync("refusal.proto", { includeDirs: ["."], defaults: true }) as any;
const decode = (type: string, bytes: Buffer) => details[type].deserialize(bytes);

// Reads why a call was refused: its code, its ErrorInfo, and the malformed fields.
async function refusal(answer: Promise<unknown>) {
  const error: grpc.ServiceError = await answer.then(() => { throw new Error("it was not refused"); }, (why) => why);
  const told = { code: error.code, reason: "", metadata: {} as Record<string, string>, fields: [] as string[] };
  const status = decode("refusal.Status", error.metadata.get("grpc-status-details-bin")[0] as Buffer);
  for (const { typeUrl, value } of status.details) {
    if (typeUrl.endsWith("/google.rpc.ErrorInfo")) Object.assign(told, decode("refusal.ErrorInfo", value));
    if (typeUrl.endsWith("/google.rpc.BadRequest"))
      told.fields = decode("refusal.BadRequest", value).fieldViolations.map((each: any) => each.field);
  }
  return told;
}

// A JSON object as google.protobuf.Struct.
function object(fields: Record<string, any>): any {
  return { fields: Object.fromEntries(Object.entries(fields).map(([key, value]) => [key, wrap(value)])) };
}

function wrap(value: any): any {
  if (typeof value === "string") return { stringValue: value };
  if (typeof value === "number") return { numberValue: value };
  if (Array.isArray(value)) return { listValue: { values: value.map(wrap) } };
  return { structValue: object(value) };
}

const name = (value: string) => value.slice(value.lastIndexOf("STATUS_") + "STATUS_".length);
const say = (what: string, ...facts: unknown[]) => console.log(`${what}: ${facts.join(" ")}`);

async function main() {
  for (const part of [invoke, converse, stop, publish, approve, batch]) await part();
  for (const client of [invoker, events, batches, approvals]) client.close();
}

main().catch((error) => { console.error(error); process.exit(1); });
