package main

import (
	"context"
	"errors"
	"sync"
	"time"

	holdfast "example.com/stubs/holdfast/v1"
)

// Refused is a commit that was not stored and will not be.
type Refused struct{ Reason, Message string }

func (r Refused) Error() string { return r.Reason + ": " + r.Message }

type lease struct {
	run   string
	epoch int64
}

// pending is a commit that has no answer yet. There is at most one for each lease.
type pending struct {
	commit *holdfast.Commit
	answer chan *holdfast.CommitAnswer
}

// commits carries the commits of all runs over one stream. Each is answered once, over any number of streams:
// what was sent over one that broke is sent again over the next, for that does no harm.
type commits struct {
	service holdfast.CheckpointServiceClient
	mutex   sync.Mutex
	open    map[lease]pending
	unsent  []lease
	wake    chan struct{}
}

func newCommits(service holdfast.CheckpointServiceClient) *commits {
	return &commits{service: service, open: map[lease]pending{}, wake: make(chan struct{}, 1)}
}

// store returns once the commit is durable. It fails with Refused, or when the context ends.
func (c *commits) store(ctx context.Context, commit *holdfast.Commit) (*holdfast.Committed, error) {
	key := lease{commit.RunId, commit.Epoch}
	waiting := pending{commit, make(chan *holdfast.CommitAnswer, 1)}
	defer c.forget(key)
	for {
		c.send(key, waiting)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case answer := <-waiting.answer:
			refused := answer.GetRefused()
			if refused == nil {
				return answer.GetCommitted(), nil
			}
			if !refused.Retryable {
				return nil, Refused{refused.Reason, refused.Message}
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// keep has a stream open until the context ends.
func (c *commits) keep(ctx context.Context) {
	for ctx.Err() == nil {
		c.stream(ctx)
		time.Sleep(200 * time.Millisecond)
	}
}

func (c *commits) stream(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.service.Commit(ctx)
	if err != nil {
		return
	}
	go func() {
		defer cancel()
		for {
			response, err := stream.Recv()
			if err != nil {
				return
			}
			for _, answer := range response.Answers {
				c.answered(answer)
			}
		}
	}()
	c.sendAll()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			if taken := c.take(); len(taken) > 0 && stream.Send(&holdfast.CommitRequest{Commits: taken}) != nil {
				return
			}
		}
	}
}

func (c *commits) send(key lease, waiting pending) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.open[key] = waiting
	c.unsent = append(c.unsent, key)
	c.awake()
}

func (c *commits) sendAll() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.unsent = nil
	for key := range c.open {
		c.unsent = append(c.unsent, key)
	}
	c.awake()
}

func (c *commits) forget(key lease) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	delete(c.open, key)
}

// take returns what is to be sent in one message: at most 256 commits of this worker's small ones.
func (c *commits) take() (taken []*holdfast.Commit) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for len(c.unsent) > 0 && len(taken) < 256 {
		if waiting, found := c.open[c.unsent[0]]; found {
			taken = append(taken, waiting.commit)
		}
		c.unsent = c.unsent[1:]
	}
	if len(c.unsent) > 0 {
		c.awake()
	}
	return taken
}

func (c *commits) answered(answer *holdfast.CommitAnswer) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	waiting, found := c.open[lease{answer.RunId, answer.Epoch}]
	if found && waiting.commit.Number == answer.Number {
		select {
		case waiting.answer <- answer:
		default: // answered already: it was sent twice
		}
	}
}

func (c *commits) awake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func isRefused(err error, reason string) bool {
	var refused Refused
	return errors.As(err, &refused) && refused.Reason == reason
}
