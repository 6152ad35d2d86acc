package main

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	holdfast "example.com/stubs/holdfast/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Agent is what serves an intent: called again from the start after a crash, with every recorded step returning
// its record. It is given its payload as JSON.
type Agent func(run *Run, payload []byte) (any, error)

// Effect goes to a destination once its step is recorded, and only then.
type Effect struct {
	Destination, Key string
	Body             any
}

// Permanent is a failure that trying again does not mend.
type Permanent struct{ Reason, Message string }

func (p Permanent) Error() string { return p.Message }

// What stops a run, as causes of its context.
type cancelled struct{ reason string }

func (c cancelled) Error() string { return "cancelled: " + c.reason }

var (
	errLost      = errors.New("the lease is another's")
	errPaused    = errors.New("somebody has paused it")
	errDrained   = errors.New("this process ends")
	errDeadline  = errors.New("the deadline has passed")
	errExhausted = errors.New("no step is left")
	errDrifted   = errors.New("the code does not match what is recorded")
)

// Left is how a run has left this worker.
type Left int

const (
	Ended Left = iota // its end is stored
	Moved             // it is in the queue again
	Lost              // its lease is another's
	Stuck             // none of these: its lease is to be handed back
)

// Run is one leased run, from its assignment to its end or to the loss of its lease.
type Run struct {
	assignment *holdfast.Assignment
	commits    *commits
	ctx        context.Context
	stop       context.CancelCauseFunc
	capability atomic.Value // a string
	paused     atomic.Bool
	recorded   map[string]*holdfast.StepRecord
	called     map[string]int
	number     int32
	sequence   int64
	steps      int64
	events     []*holdfast.RunEvent
}

func newRun(ctx context.Context, assignment *holdfast.Assignment, commits *commits) *Run {
	ctx, stop := context.WithCancelCause(ctx)
	run := &Run{assignment: assignment, commits: commits, ctx: ctx, stop: stop,
		recorded: map[string]*holdfast.StepRecord{}, called: map[string]int{},
		number: assignment.LastCommit, sequence: assignment.LastSequence, steps: assignment.Usage.GetSteps()}
	run.capability.Store(assignment.Capability)
	return run
}

// execute runs the agent to wherever that takes the run.
func (r *Run) execute(agent Agent) Left {
	deadline := time.AfterFunc(r.assignment.Remaining.AsDuration(), func() { r.stop(errDeadline) })
	defer deadline.Stop()
	if r.assignment.LastCommit > 0 {
		if err := r.load(); err != nil {
			fmt.Println("not loaded", r.assignment.RunId, err)
			return Stuck
		}
	}
	r.happened(&holdfast.RunEvent{Event: &holdfast.RunEvent_Started{Started: &holdfast.RunStarted{
		Epoch: r.assignment.Epoch, AgentVersion: version, ReplayedSteps: int32(len(r.recorded))}}})
	payload, err := r.assignment.Invocation.Payload.MarshalJSON()
	var result any
	if err == nil {
		result, err = agent(r, payload)
	}
	return r.leave(result, err)
}

// Step returns what a step has recorded, or else does it and records what it returned.
func (r *Run) Step(name string, input any, do func(context.Context, string) (any, []Effect, error)) (any, error) {
	r.called[name]++
	key := name
	if r.called[name] > 1 {
		key = fmt.Sprintf("%s#%d", name, r.called[name])
	}
	asked, err := json.Marshal(input)
	if err != nil {
		return nil, err
	}
	fingerprint := sha256.Sum256(append([]byte(name+"\n"), asked...))
	if record := r.recorded[key]; record != nil {
		if string(record.Fingerprint) != string(fingerprint[:]) {
			return nil, errDrifted
		}
		fmt.Println("replayed", key)
		var output any
		return output, json.Unmarshal(record.Output, &output)
	}
	if budget := r.assignment.Invocation.Budget; r.steps >= budget.MaxSteps-r.assignment.Lent.GetSteps() {
		return nil, errExhausted
	}
	if r.paused.Load() {
		return nil, errPaused
	}
	if r.ctx.Err() != nil {
		return nil, context.Cause(r.ctx)
	}
	r.happened(&holdfast.RunEvent{Step: key, Event: &holdfast.RunEvent_StepStarted{StepStarted: &holdfast.StepStarted{
		Key: key, Kind: holdfast.StepKind_STEP_KIND_FUNCTION, Attempt: 1}}})
	began := time.Now()
	output, effects, err := do(r.ctx, r.assignment.RunId+"/"+key)
	if r.ctx.Err() != nil {
		return nil, context.Cause(r.ctx)
	}
	if err != nil {
		return nil, err
	}
	fmt.Println("executed", key)
	commit, err := r.outcome(key, asked, fingerprint[:], output, effects, time.Since(began))
	if err != nil {
		return nil, err
	}
	return output, r.store(commit)
}

// outcome makes the commit that records a step, with its events and what it lets go.
func (r *Run) outcome(
	key string, input, fingerprint []byte, output any, effects []Effect, took time.Duration,
) (*holdfast.Commit, error) {
	encoded, err := json.Marshal(output)
	if err != nil {
		return nil, err
	}
	usage := &holdfast.Usage{Steps: 1}
	commit := &holdfast.Commit{Steps: []*holdfast.StepRecord{{Key: key, Kind: holdfast.StepKind_STEP_KIND_FUNCTION,
		Fingerprint: fingerprint, Input: input, Output: encoded, Attempts: 1, Usage: usage,
		Duration: durationpb.New(took)}}}
	for _, effect := range effects {
		body, err := json.Marshal(effect.Body)
		if err != nil {
			return nil, err
		}
		id := stableID(r.assignment.RunId + "/" + key + "/" + effect.Key)
		commit.Effects = append(commit.Effects, &holdfast.EffectIntent{EffectId: id,
			Destination: effect.Destination, IdempotencyKey: effect.Key, Body: body})
		r.happened(&holdfast.RunEvent{Step: key, Event: &holdfast.RunEvent_EffectStaged{
			EffectStaged: &holdfast.EffectStaged{
				EffectId: id, Destination: effect.Destination, IdempotencyKey: effect.Key}}})
	}
	r.happened(&holdfast.RunEvent{Step: key, Event: &holdfast.RunEvent_StepFinished{
		StepFinished: &holdfast.StepFinished{Key: key, Kind: holdfast.StepKind_STEP_KIND_FUNCTION, Attempts: 1,
			Usage: usage, Duration: durationpb.New(took)}}})
	r.steps++
	return commit, nil
}

// leave says where the run goes now that its agent has returned.
func (r *Run) leave(result any, err error) Left {
	var (
		permanent Permanent
		stopped   cancelled
	)
	switch {
	case err == nil:
		value, wrong := structpb.NewValue(result)
		if wrong != nil {
			return r.end(failed(holdfast.RunStatus_RUN_STATUS_FAILED, "NOT_RECORDABLE", wrong.Error()))
		}
		return r.end(&holdfast.Outcome{Status: holdfast.RunStatus_RUN_STATUS_SUCCEEDED, Result: value})
	case errors.Is(err, errLost) || isRefused(err, "FENCED"):
		fmt.Println("fenced", r.assignment.RunId, r.assignment.Epoch)
		return Lost
	case errors.As(err, &stopped):
		return r.end(failed(holdfast.RunStatus_RUN_STATUS_CANCELLED, "CANCELLED", stopped.reason))
	case errors.Is(err, errDeadline):
		return r.end(exhausted(holdfast.BudgetDimension_BUDGET_DIMENSION_DEADLINE))
	case errors.Is(err, errExhausted) || isRefused(err, "BUDGET_EXCEEDED"):
		return r.end(exhausted(holdfast.BudgetDimension_BUDGET_DIMENSION_STEPS))
	case errors.Is(err, errDrifted):
		return r.end(failed(holdfast.RunStatus_RUN_STATUS_DRIFTED, "DRIFTED", err.Error()))
	case errors.As(err, &permanent):
		return r.end(failed(holdfast.RunStatus_RUN_STATUS_FAILED, permanent.Reason, permanent.Message))
	case errors.Is(err, errPaused) || errors.Is(err, errDrained):
		return r.requeue(&holdfast.RequeueMove{Blameless: true})
	default:
		return r.requeue(&holdfast.RequeueMove{Delay: durationpb.New(time.Second),
			Failure: &holdfast.Failure{Reason: "ERROR", Message: err.Error(), Attempts: r.assignment.Attempt}})
	}
}

func (r *Run) end(outcome *holdfast.Outcome) Left {
	r.happened(&holdfast.RunEvent{Event: &holdfast.RunEvent_Ended{Ended: &holdfast.RunEnded{
		Outcome: outcome, Usage: &holdfast.Usage{Steps: r.steps}}}})
	return r.move(Ended, outcome.Status.String(), &holdfast.Commit{Move: &holdfast.Commit_End{End: outcome}})
}

func (r *Run) requeue(move *holdfast.RequeueMove) Left {
	return r.move(Moved, move.Failure.GetMessage(), &holdfast.Commit{Move: &holdfast.Commit_Requeue{Requeue: move}})
}

// move stores where the run goes.
func (r *Run) move(left Left, what string, commit *holdfast.Commit) Left {
	err := r.store(commit)
	switch {
	case err == nil:
		fmt.Println([]string{"ended", "requeued"}[left], r.assignment.RunId, what)
		return left
	case errors.Is(err, errLost) || isRefused(err, "FENCED"):
		fmt.Println("fenced", r.assignment.RunId, r.assignment.Epoch)
		return Lost
	default:
		fmt.Println("stuck", r.assignment.RunId, err)
		return Stuck
	}
}

// happened adds an event; it is told with the next commit.
func (r *Run) happened(event *holdfast.RunEvent) {
	event.RunId, event.Epoch, event.Attempt = r.assignment.RunId, r.assignment.Epoch, r.assignment.Attempt
	event.Sequence = r.sequence + int64(len(r.events)) + 1
	event.Time = timestamppb.Now()
	r.events = append(r.events, event)
}

// store makes a commit durable together with what has happened until now. Only the loss of the lease keeps a move
// from being stored, not what stopped the agent.
func (r *Run) store(commit *holdfast.Commit) error {
	if errors.Is(context.Cause(r.ctx), errLost) {
		return errLost
	}
	commit.RunId, commit.Epoch, commit.Number = r.assignment.RunId, r.assignment.Epoch, r.number+1
	commit.Capability = r.capability.Load().(string)
	commit.Events = &holdfast.EventBatch{Events: r.events}
	until, done := context.WithTimeout(context.WithoutCancel(r.ctx), time.Minute)
	defer done()
	committed, err := r.commits.store(until, commit)
	if err != nil {
		if refused := (Refused{}); errors.As(err, &refused) { // nothing of it is stored, and its number is free
			r.steps -= int64(len(commit.Steps))
			r.events = nil
		}
		return err
	}
	r.number++
	r.sequence += int64(len(r.events))
	r.events = nil
	if committed.CancelRequested && commit.Move == nil {
		r.stop(cancelled{"asked before it was told"})
	}
	return nil
}

// load reads what earlier attempts have recorded.
func (r *Run) load() error {
	ctx := metadata.AppendToOutgoingContext(r.ctx, "holdfast-capability", r.capability.Load().(string))
	pages, err := r.commits.service.LoadRun(ctx, &holdfast.LoadRunRequest{
		RunId: r.assignment.RunId, Epoch: r.assignment.Epoch})
	if err != nil {
		return err
	}
	for {
		page, err := pages.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, record := range page.Steps {
			r.recorded[record.Key] = record
		}
	}
}

func failed(status holdfast.RunStatus, reason, message string) *holdfast.Outcome {
	return &holdfast.Outcome{Status: status, Failure: &holdfast.Failure{Reason: reason, Message: message}}
}

func exhausted(dimension holdfast.BudgetDimension) *holdfast.Outcome {
	return &holdfast.Outcome{Status: holdfast.RunStatus_RUN_STATUS_PARTIAL, Exhausted: dimension}
}

// stableID is a UUID that is the same for the same name: version 5, in no one's namespace.
func stableID(name string) string {
	sum := sha1.Sum(append(make([]byte, 16), name...))
	sum[6], sum[8] = sum[6]&0x0f|0x50, sum[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
