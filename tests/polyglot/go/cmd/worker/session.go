package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	holdfast "example.com/stubs/holdfast/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

const (
	version = "1"
	slots   = 4
)

// quietFor is how long nothing is leased to a worker that leaves before it closes its side.
const quietFor = 300 * time.Millisecond

// worker keeps a session with an Invoker and executes what is leased to it.
//
//	connecting -(opened)-> in session -(broken)-> connecting -(opened within the ttl)-> in session
//	                                                  '-(the ttl has passed)-> every run stops, another id
type worker struct {
	service holdfast.WorkServiceClient
	commits *commits
	agents  map[string]Agent
	id      string
	ttl     time.Duration
	expiry  *time.Timer
	mutex   sync.Mutex
	held    map[string]*Run
	credit  int32 // slots that are free and of which the Invoker was not told
	ended   []string
	back    []*holdfast.LeaseRef
	leaving bool
	wake    chan struct{}
	running sync.WaitGroup
}

func newWorker(service holdfast.WorkServiceClient, commits *commits, agents map[string]Agent) *worker {
	return &worker{service: service, commits: commits, agents: agents, id: newID(), ttl: 10 * time.Second,
		held: map[string]*Run{}, wake: make(chan struct{}, 1)}
}

// keep has a session until the context ends, then hands back what is not finished. `calls` is that of the calls.
func (w *worker) keep(ctx, calls context.Context) {
	for ctx.Err() == nil {
		err := w.session(ctx, calls)
		fmt.Println("session over", err)
		w.mutex.Lock()
		if reason(err) == "SESSION_UNKNOWN" {
			w.lose()
		} else if w.expiry == nil {
			w.expire()
		}
		w.mutex.Unlock()
		time.Sleep(200 * time.Millisecond)
	}
}

// expire lets the leases be over once they have not been renewed for as long as they last.
func (w *worker) expire() {
	w.expiry = time.AfterFunc(w.ttl, func() {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		if w.expiry != nil {
			w.lose()
		}
	})
}

// session holds one stream until it breaks or the context ends.
func (w *worker) session(ctx, calls context.Context) error {
	calls, cancel := context.WithCancel(calls)
	defer cancel()
	stream, err := w.service.Lease(calls)
	if err != nil {
		return err
	}
	hello := &holdfast.RunnerHello{RunnerId: w.id}
	for intent := range w.agents {
		hello.Intents = append(hello.Intents, &holdfast.ServedIntent{Intent: intent, AgentVersion: version})
	}
	if err := stream.Send(&holdfast.LeaseRequest{Message: &holdfast.LeaseRequest_Hello{Hello: hello}}); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetOpened() == nil {
		return errors.New("the first message opens no session")
	}
	w.begin(first.GetOpened())
	broken := make(chan error, 1)
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				broken <- err
				return
			}
			w.take(calls, response)
			if response.GetDraining() != nil {
				broken <- errors.New("the Invoker drains")
				return
			}
		}
	}()
	beat := time.NewTicker(first.GetOpened().HeartbeatInterval.AsDuration())
	defer beat.Stop()
	for {
		select {
		case err := <-broken:
			return err
		case <-ctx.Done():
			return w.drain(stream)
		case <-beat.C:
			err = w.say(stream, true)
		case <-w.wake:
			err = w.say(stream, false)
		}
		if err != nil {
			return <-broken // the stream's own word for why
		}
	}
}

// begin starts a session: credit is the stream's own, so a new one begins with all that is free.
func (w *worker) begin(opened *holdfast.SessionOpened) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.expiry != nil {
		w.expiry.Stop()
		w.expiry = nil
	}
	w.ttl = opened.LeaseTtl.AsDuration()
	w.credit = slots - int32(len(w.held))
	fmt.Println("in session", opened.SessionId)
	w.awake()
}

// take does what one message says. What it says of a lease that is not held any more is passed over.
func (w *worker) take(calls context.Context, response *holdfast.LeaseResponse) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, assignment := range response.GetLeased().GetAssignments() {
		w.start(context.WithoutCancel(calls), assignment)
	}
	for _, ref := range response.GetRevoked().GetLeases() {
		w.halt(ref, errLost)
	}
	for _, ref := range response.GetCancel().GetLeases() {
		w.halt(ref, cancelled{response.GetCancel().Reason})
	}
	for _, ref := range response.GetPause().GetLeases() {
		if run := w.find(ref); run != nil {
			run.paused.Store(true)
			fmt.Println("paused", ref.RunId)
		}
	}
	for _, renewed := range response.GetRenewed().GetCapabilities() {
		if run := w.find(renewed.Lease); run != nil {
			run.capability.Store(renewed.Capability)
		}
	}
}

// start executes a leased run. One it holds already is told again when a stream was opened anew.
func (w *worker) start(ctx context.Context, assignment *holdfast.Assignment) {
	if old := w.held[assignment.RunId]; old != nil {
		if old.assignment.Epoch >= assignment.Epoch {
			return
		}
		old.stop(errLost)
	}
	if w.leaving {
		w.back = append(w.back, &holdfast.LeaseRef{RunId: assignment.RunId, Epoch: assignment.Epoch})
		w.awake()
		return
	}
	agent := w.agents[assignment.Invocation.Intent]
	run := newRun(ctx, assignment, w.commits)
	w.held[assignment.RunId] = run
	fmt.Println("leased", assignment.RunId, assignment.Epoch, assignment.LastCommit)
	w.running.Add(1)
	go func() {
		defer w.running.Done()
		left := run.execute(agent)
		w.mutex.Lock()
		defer w.mutex.Unlock()
		if w.held[assignment.RunId] == run {
			delete(w.held, assignment.RunId)
		}
		w.credit++
		switch left {
		case Ended:
			w.ended = append(w.ended, assignment.RunId)
		case Stuck:
			w.back = append(w.back, &holdfast.LeaseRef{RunId: assignment.RunId, Epoch: assignment.Epoch})
		}
		w.awake()
	}()
}

// say writes what the Invoker is to know.
func (w *worker) say(stream holdfast.WorkService_LeaseClient, beat bool) error {
	w.mutex.Lock()
	credit := &holdfast.RunnerCredit{Slots: w.credit, EndedRunIds: w.ended}
	back, held := &holdfast.RunnerHandBack{Leases: w.back}, int32(len(w.held))
	w.credit, w.ended, w.back = 0, nil, nil
	w.mutex.Unlock()
	if len(back.Leases) > 0 {
		if err := stream.Send(&holdfast.LeaseRequest{Message: &holdfast.LeaseRequest_HandBack{HandBack: back}}); err != nil {
			return err
		}
	}
	if credit.Slots > 0 || len(credit.EndedRunIds) > 0 {
		if err := stream.Send(&holdfast.LeaseRequest{Message: &holdfast.LeaseRequest_Credit{Credit: credit}}); err != nil {
			return err
		}
	}
	if !beat {
		return nil
	}
	alive := &holdfast.RunnerHeartbeat{Held: held}
	return stream.Send(&holdfast.LeaseRequest{Message: &holdfast.LeaseRequest_Heartbeat{Heartbeat: alive}})
}

// drain stops every run; each goes back to the queue by a commit of its own, unharmed. The Invoker still knows of
// free slots here, and may lease what came back to them: it is handed back, until nothing more comes.
func (w *worker) drain(stream holdfast.WorkService_LeaseClient) error {
	w.mutex.Lock()
	w.leaving = true
	for _, run := range w.held {
		run.stop(errDrained)
	}
	w.mutex.Unlock()
	w.running.Wait()
	for quiet := false; !quiet; {
		w.mutex.Lock()
		w.credit = 0 // no more of it
		w.mutex.Unlock()
		if err := w.say(stream, false); err != nil {
			return err
		}
		select {
		case <-w.wake:
		case <-time.After(quietFor):
			quiet = true
		}
	}
	return stream.CloseSend()
}

func (w *worker) find(ref *holdfast.LeaseRef) *Run {
	run := w.held[ref.RunId]
	if run == nil || run.assignment.Epoch != ref.Epoch {
		return nil
	}
	return run
}

func (w *worker) halt(ref *holdfast.LeaseRef, why error) {
	if run := w.find(ref); run != nil {
		run.stop(why)
	}
}

// lose stops every run at once: others may have them already. What comes next is another session.
func (w *worker) lose() {
	for _, run := range w.held {
		run.stop(errLost)
	}
	w.id, w.expiry, w.back = newID(), nil, nil
}

func (w *worker) awake() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, is := detail.(*errdetails.ErrorInfo); is {
			return info.Reason
		}
	}
	return ""
}

func newID() string {
	var id [16]byte
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
}
