package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// answerTime is how long an answer may still take to be sent once the request's
// time is up.
const answerTime = 5 * time.Second

// outcome says how a handler ended.
type outcome struct {
	// panicked is what it panicked with, and stack where.
	panicked any
	stack    string
	// late says that its time was up before it ended.
	late bool
}

// run calls the handler and catches its panic.
func (s *Server) run(ctx context.Context, rec *recorder, r *http.Request, info *requestInfo, late error) (out outcome) {
	defer func() {
		if out.panicked = recover(); out.panicked != nil && out.panicked != http.ErrAbortHandler {
			out.stack = string(debug.Stack())
		}
	}()
	s.serve(ctx, rec, r, info, late)
	return out
}

// lasting handles a request that ends when the client wants, or with the
// server.
func (s *Server) lasting(rec *recorder, r *http.Request, info *requestInfo) outcome {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	return s.run(ctx, rec, r, info, nil)
}

// bounded handles a request within its time limit. When the time is up the
// answer is given whatever the handler does, and a client that neither sends
// its body nor takes its answer is cut off.
func (s *Server) bounded(rec *recorder, r *http.Request, info *requestInfo) outcome {
	limit, bad := s.timeLimit(r)
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	ended := make(chan outcome, 1)
	s.crew.do(func() { ended <- s.run(ctx, rec, r, info, bad) })
	select {
	case out := <-ended:
		return out
	case <-ctx.Done():
	}
	connection := http.NewResponseController(rec.out)
	// Either deadline may be impossible, for a connection that is gone. A handler
	// that reads the body is let go last: it would answer that it cannot.
	_ = connection.SetWriteDeadline(time.Now().Add(answerTime))
	defer func() { _ = connection.SetReadDeadline(time.Unix(1, 0)) }()
	status := statusOf(timeIsUp(ctx.Err()))
	body, err := encodeObject(status, schema.GroupVersionKind{Version: "v1", Kind: "Status"}, mediaJSON)
	if err != nil {
		return outcome{panicked: err, late: true}
	}
	out := outcome{late: true}
	if !rec.takeOver(int(status.Code), mediaJSON, append(body, '\n')) {
		out.panicked = http.ErrAbortHandler
	}
	go func() {
		abandoned := <-ended
		s.metrics.endedLate(abandoned)
		if abandoned.stack != "" {
			s.Log.Error("a request made the server panic after its time", "path", info.Path, "panic", abandoned.panicked, "stack", abandoned.stack)
		}
	}()
	return out
}

// timeLimit is what the client says in ?timeout=, at most RequestTimeout.
func (s *Server) timeLimit(r *http.Request) (limit time.Duration, err error) {
	if !strings.Contains(r.URL.RawQuery, "timeout=") {
		return s.RequestTimeout, nil
	}
	v := r.URL.Query().Get("timeout")
	if v == "" {
		return s.RequestTimeout, nil
	}
	asked, err := time.ParseDuration(v)
	if err != nil {
		return s.RequestTimeout, apierrors.NewBadRequest("invalid timeout specified in the request URL - " + err.Error())
	}
	if asked <= 0 {
		return s.RequestTimeout, nil
	}
	return min(s.RequestTimeout, asked), nil
}

// inTime returns upstream's error for a request whose time is up, else err.
func inTime(ctx context.Context, err error) error {
	if ctx.Err() == context.DeadlineExceeded {
		return timeIsUp(ctx.Err())
	}
	return err
}

func timeIsUp(why error) error {
	return apierrors.NewTimeoutError(fmt.Sprintf("request did not complete within requested timeout - %s", why), 0)
}

// writeGuard cuts off a client that takes too long to accept what is sent to
// it, so that a watch holds what it has to say for a bounded time.
type writeGuard struct {
	timer *time.Timer
	limit time.Duration
}

func newWriteGuard(out *http.ResponseController, limit time.Duration) *writeGuard {
	timer := time.AfterFunc(time.Hour, func() {
		// Without deadlines (in a test's recorder) there is nothing to cut.
		_ = out.SetWriteDeadline(time.Unix(1, 0))
	})
	timer.Stop()
	return &writeGuard{timer, limit}
}

func (g *writeGuard) begin() { g.timer.Reset(g.limit) }
func (g *writeGuard) end()   { g.timer.Stop() }
