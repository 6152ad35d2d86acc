// A runner of Holdfast in Go, over WorkService and CheckpointService and nothing else.
//
// It serves one intent, `polyglot.transfer`: three steps, each a call to the world outside, and one effect. It may
// be killed at any time: whoever is leased the run next goes on after the last step that was committed.
//
// It is told by HOLDFAST_INVOKER and HOLDFAST_CHECKPOINT where the services are, and by HOLDFAST_TOKEN who it is,
// where there is identity.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	holdfast "example.com/stubs/holdfast/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	invoker, checkpoint := dial("HOLDFAST_INVOKER"), dial("HOLDFAST_CHECKPOINT")
	defer invoker.Close()
	defer checkpoint.Close()
	calls := context.Background() // the streams outlive the signal: leases are handed back over them
	if token := os.Getenv("HOLDFAST_TOKEN"); token != "" {
		calls = metadata.AppendToOutgoingContext(calls, "authorization", "Bearer "+token)
	}
	commits := newCommits(holdfast.NewCheckpointServiceClient(checkpoint))
	go commits.keep(calls)
	worker := newWorker(holdfast.NewWorkServiceClient(invoker), commits, map[string]Agent{"polyglot.transfer": transfer})
	worker.keep(ctx, calls)
}

// order is what the agent is given.
type order struct {
	URL    string `json:"url"`
	Amount int    `json:"amount"`
}

// transfer reserves an amount, charges it, which is told by an effect, and confirms it.
func transfer(run *Run, payload []byte) (any, error) {
	var asked order
	if err := json.Unmarshal(payload, &asked); err != nil {
		return nil, Permanent{"INVALID_PAYLOAD", err.Error()}
	}
	reserved, err := run.Step("reserve", asked.Amount, func(ctx context.Context, key string) (any, []Effect, error) {
		answer, err := post(ctx, asked.URL+"/reserve", key, asked.Amount)
		return answer, nil, err
	})
	if err != nil {
		return nil, err
	}
	charged, err := run.Step("charge", reserved, func(ctx context.Context, key string) (any, []Effect, error) {
		answer, err := post(ctx, asked.URL+"/charge", key, reserved)
		return answer, []Effect{{Destination: "receipts", Key: key, Body: answer}}, err
	})
	if err != nil {
		return nil, err
	}
	return run.Step("confirm", charged, func(ctx context.Context, key string) (any, []Effect, error) {
		answer, err := post(ctx, asked.URL+"/confirm", key, charged)
		return answer, nil, err
	})
}

// post calls the world outside; the key is the same in every attempt, so that it can know a repeated call.
func post(ctx context.Context, url, key string, body any) (any, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(encoded))
	if err != nil {
		return nil, Permanent{"INVALID_URL", err.Error()}
	}
	request.Header.Set("Idempotency-Key", key)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, response.Status)
	}
	var answer any
	return answer, json.NewDecoder(response.Body).Decode(&answer)
}

func dial(variable string) *grpc.ClientConn {
	connection, err := grpc.NewClient(os.Getenv(variable), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	return connection
}
