// A client of Holdfast in Go: one function for each thing a client does, each printing one line.
//
// It is told where the services are by HOLDFAST_INVOKER and HOLDFAST_APPROVAL, and its tenant as argument.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	holdfast "example.com/stubs/holdfast/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

type client struct {
	invoker  holdfast.InvokerServiceClient
	events   holdfast.EventServiceClient
	batches  holdfast.BatchServiceClient
	approval holdfast.ApprovalServiceClient
}

func main() {
	invoker, approval := dial("HOLDFAST_INVOKER"), dial("HOLDFAST_APPROVAL")
	defer invoker.Close()
	defer approval.Close()
	c := client{
		holdfast.NewInvokerServiceClient(invoker), holdfast.NewEventServiceClient(invoker),
		holdfast.NewBatchServiceClient(invoker), holdfast.NewApprovalServiceClient(approval),
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "holdfast-tenant", os.Args[1])
	c.invoke(ctx)
	c.converse(ctx)
	c.stop(ctx)
	c.publish(ctx)
	c.approve(ctx)
	c.batch(ctx)
}

// invoke starts a run and waits for it; the same key finds it again, and what is wrong is refused by name.
func (c client) invoke(ctx context.Context) {
	request := &holdfast.InvokeRequest{Intent: "polyglot.greet", IdempotencyKey: "greeting",
		Payload: object(map[string]any{"name": "Ada"}), Wait: durationpb.New(20 * time.Second)}
	first := must(c.invoker.Invoke(ctx, request))
	say("invoked", name(first.Run.Status), first.Run.Outcome.Result.GetStringValue())

	again := must(c.invoker.Invoke(ctx, request))
	say("again", again.Reattached, again.Run.RunId == first.Run.RunId)

	request.Payload = object(map[string]any{"name": "Bob"})
	_, err := c.invoker.Invoke(ctx, request)
	code, info, _ := refusal(err)
	say("refused", code, info.Reason, info.Metadata["run_id"] == first.Run.RunId)

	_, err = c.invoker.Invoke(ctx, &holdfast.InvokeRequest{Intent: "not an intent"})
	code, info, fields := refusal(err)
	say("malformed", code, info.Reason, strings.Join(fields, ","))
}

// converse follows a run, loses the stream, and goes on after the last event it has seen.
func (c client) converse(ctx context.Context) {
	broken, breakOff := context.WithCancel(ctx)
	stream := must(c.invoker.Converse(broken))
	send(stream, &holdfast.ConverseRequest{Message: &holdfast.ConverseRequest_Start{
		Start: &holdfast.ConverseStart{Invocation: &holdfast.InvokeRequest{
			Intent: "polyglot.recite", Payload: object(map[string]any{"words": []any{"one", "two", "three"}})}}}})
	runID := must(stream.Recv()).GetStarted().Run.RunId
	var held transcript
	for !strings.HasSuffix(held.text(), "three ") {
		held.take(must(stream.Recv()))
	}
	say("streamed", held.text())
	breakOff()

	stream = must(c.invoker.Converse(ctx))
	last := held.events[len(held.events)-1]
	send(stream, &holdfast.ConverseRequest{Message: &holdfast.ConverseRequest_Attach{Attach: &holdfast.ConverseAttach{
		RunId: runID, AfterSequence: last.Sequence, AfterEpoch: last.Epoch}}})
	input := &holdfast.ConverseInput{Payload: structpb.NewStringValue("four"), SignalId: "more"}
	send(stream, &holdfast.ConverseRequest{Message: &holdfast.ConverseRequest_Input{Input: input}})
	signalled := ""
	for held.ended() == nil {
		response := must(stream.Recv())
		held.take(response)
		signalled += response.GetSignalled().GetSignalId()
	}
	say("resumed", held.text(), signalled, held.whole(), name(held.ended().Outcome.Status))
	must(0, stream.CloseSend())
}

// stop asks a run to stop while it speaks.
func (c client) stop(ctx context.Context) {
	stream := must(c.invoker.Converse(ctx))
	send(stream, &holdfast.ConverseRequest{Message: &holdfast.ConverseRequest_Start{
		Start: &holdfast.ConverseStart{Invocation: &holdfast.InvokeRequest{Intent: "polyglot.drone"}}}})
	var held transcript
	for held.ended() == nil {
		before := held.text()
		held.take(must(stream.Recv()))
		if before == "" && held.text() != "" {
			cancel := &holdfast.ConverseCancel{Reason: "enough"}
			send(stream, &holdfast.ConverseRequest{Message: &holdfast.ConverseRequest_Cancel{Cancel: cancel}})
		}
	}
	say("stopped", name(held.ended().Outcome.Status))
	must(0, stream.CloseSend())
}

// publish sends three events, of which the second is the first delivered twice and the third nobody serves.
func (c client) publish(ctx context.Context) {
	event := &holdfast.InvokeRequest{Intent: "polyglot.greet", IdempotencyKey: "event-1",
		Payload: object(map[string]any{"name": "Eve"})}
	stray := &holdfast.InvokeRequest{Intent: "polyglot.nobody", IdempotencyKey: "event-2"}
	results := must(c.events.PublishEvents(ctx, &holdfast.PublishEventsRequest{
		Events: []*holdfast.InvokeRequest{event, event, stray}})).Results
	say("published", results[0].Duplicate, results[1].Duplicate, results[0].RunId == results[1].RunId,
		results[2].Refusal.Reason)
}

// approve decides the gate a run waits at, as the user the credential names.
func (c client) approve(ctx context.Context) {
	stream := must(c.invoker.Converse(ctx))
	send(stream, &holdfast.ConverseRequest{Message: &holdfast.ConverseRequest_Start{
		Start: &holdfast.ConverseStart{Invocation: &holdfast.InvokeRequest{
			Intent: "polyglot.order", Payload: object(map[string]any{"amount": 40})}}}})
	ada := metadata.AppendToOutgoingContext(ctx, "holdfast-user", "ada")
	var held transcript
	for held.ended() == nil {
		response := must(stream.Recv())
		held.take(response)
		if gate := response.GetEvent().GetApprovalRequested(); gate != nil {
			must(c.approval.DecideApproval(ada, &holdfast.DecideApprovalRequest{ApprovalId: gate.ApprovalId,
				Verdict: holdfast.ApprovalVerdict_APPROVAL_VERDICT_APPROVE, Reason: "fine"}))
		}
	}
	say("approved", held.ended().Outcome.Result.GetStringValue())
	must(0, stream.CloseSend())
}

// batch uploads five items in two chunks, starts them, and watches until all have ended.
func (c client) batch(ctx context.Context) {
	upload := must(c.batches.CreateBatch(ctx))
	send(upload, &holdfast.CreateBatchRequest{Message: &holdfast.CreateBatchRequest_Spec{Spec: &holdfast.BatchSpec{
		Invocation:     &holdfast.InvokeRequest{Intent: "polyglot.double"},
		IdempotencyKey: "numbers", SkipStaging: true}}})
	for offset := 0; offset < 5; offset += 3 {
		chunk := &holdfast.BatchChunk{Offset: int64(offset)}
		for number := offset; number < min(offset+3, 5); number++ {
			chunk.Items = append(chunk.Items, &holdfast.BatchInput{
				Key: fmt.Sprint("n", number), Payload: object(map[string]any{"number": number})})
		}
		send(upload, &holdfast.CreateBatchRequest{Message: &holdfast.CreateBatchRequest_Chunk{Chunk: chunk}})
	}
	send(upload, &holdfast.CreateBatchRequest{Message: &holdfast.CreateBatchRequest_CompleteCount{CompleteCount: 5}})
	batchID := must(upload.CloseAndRecv()).Batch.BatchId
	must(c.batches.StartBatch(ctx, &holdfast.StartBatchRequest{BatchId: batchID}))

	watch := must(c.batches.WatchBatch(ctx, &holdfast.WatchBatchRequest{BatchId: batchID}))
	var last *holdfast.WatchBatchResponse
	for {
		response, err := watch.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		last = must(response, err)
	}
	sum := 0
	for _, item := range must(c.batches.ListBatchItems(ctx, &holdfast.ListBatchItemsRequest{BatchId: batchID})).Items {
		sum += int(item.Output.GetStructValue().Fields["double"].GetNumberValue())
	}
	counts := last.Progress.Counts
	say("batch", name(last.Batch.Status), len(counts), name(counts[0].Status), counts[0].Count, sum)
}

// transcript holds what a stream has told of a run: the true one, if Rewound is obeyed.
type transcript struct{ events []*holdfast.RunEvent }

func (t *transcript) take(response *holdfast.ConverseResponse) {
	if event := response.GetEvent(); event != nil {
		t.events = append(t.events, event)
	}
	if rewound := response.GetRewound(); rewound != nil {
		for len(t.events) > 0 && t.events[len(t.events)-1].Sequence > rewound.ToSequence {
			t.events = t.events[:len(t.events)-1]
		}
	}
}

func (t *transcript) text() string {
	var text strings.Builder
	for _, event := range t.events {
		text.WriteString(event.GetToken().GetText())
	}
	return text.String()
}

func (t *transcript) ended() *holdfast.RunEnded {
	if len(t.events) == 0 {
		return nil
	}
	return t.events[len(t.events)-1].GetEnded()
}

// whole tells whether no event is missing and none came twice.
func (t *transcript) whole() bool {
	for place, event := range t.events {
		if event.Sequence != int64(place+1) {
			return false
		}
	}
	return true
}

// refusal reads why a call was refused: its code, its ErrorInfo, and the malformed fields.
func refusal(err error) (code int, info *errdetails.ErrorInfo, fields []string) {
	told := status.Convert(err)
	info = &errdetails.ErrorInfo{}
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			info = detail
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				fields = append(fields, violation.Field)
			}
		}
	}
	return int(told.Code()), info, fields
}

func dial(variable string) *grpc.ClientConn {
	return must(grpc.NewClient(os.Getenv(variable), grpc.WithTransportCredentials(insecure.NewCredentials())))
}

func object(fields map[string]any) *structpb.Struct { return must(structpb.NewStruct(fields)) }

func send[T any](stream interface{ Send(*T) error }, message *T) { must(0, stream.Send(message)) }

// name says an enum's value without the prefix.
func name(value fmt.Stringer) string {
	text := value.String()
	return text[strings.LastIndex(text, "STATUS_")+len("STATUS_"):]
}

func say(what string, facts ...any) {
	fmt.Print(what, ": ")
	fmt.Println(facts...)
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
