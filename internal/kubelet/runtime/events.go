package runtime

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
)

const (
	reconnectMin = 100 * time.Millisecond
	reconnectMax = 3 * time.Second
)

// Events follows the runtime's container events.
type Events struct {
	Client *Client
	Log    *slog.Logger
	Clock  clock.Clock
	// Connected is called after each (re)connection, before the first event of
	// it: the receiver lists the runtime's state once, since events may have
	// been missed.
	Connected func(ctx context.Context)
	// Disconnected is called when the stream breaks.
	Disconnected func(err error)
	// Changed is called with the UID of a pod whose sandbox or containers
	// changed.
	Changed func(podUID string)
}

// Run follows events until ctx ends.
func (e *Events) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := e.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		e.Log.Warn("container event stream ended", "err", err)
		e.Disconnected(err)
		select {
		case <-ctx.Done():
		case <-e.Clock.After(reconnectMax):
		}
	}
}

func (e *Events) follow(ctx context.Context) error {
	stream, err := e.Client.GetContainerEvents(ctx, &cri.GetEventsRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	// Opening a stream does not wait for the server; the version call does.
	if _, err := e.Client.WaitReady(ctx); err != nil {
		return err
	}
	e.Connected(ctx)
	for {
		ev, err := stream.Recv()
		if err != nil {
			return err
		}
		if uid := ev.GetPodSandboxStatus().GetMetadata().GetUid(); uid != "" {
			e.Changed(uid)
		}
	}
}
