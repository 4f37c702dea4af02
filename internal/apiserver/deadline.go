package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// answerTime is how long an answer may still take to be sent once the request's
// time is up.
const answerTime = 5 * time.Second

// deadline bounds the request in time: those that are not long-running by what
// the client says in ?timeout=, at most RequestTimeout; the others end with the
// server. When the time is up, a client that neither sends its body nor takes
// its answer is cut off. done must be called at the end.
func (s *Server) deadline(ctx context.Context, w http.ResponseWriter, r *http.Request, info *requestInfo) (_ context.Context, done func(), err error) {
	if info.longRunning() {
		ctx, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(s.stopping, cancel)
		return ctx, func() { stop(); cancel() }, nil
	}
	limit := s.RequestTimeout
	if strings.Contains(r.URL.RawQuery, "timeout=") {
		if v := r.URL.Query().Get("timeout"); v != "" {
			asked, parseErr := time.ParseDuration(v)
			if parseErr != nil {
				err = apierrors.NewBadRequest("invalid timeout specified in the request URL - " + parseErr.Error())
			}
			if asked > 0 {
				limit = min(limit, asked)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		out := http.NewResponseController(w)
		// Either may be impossible, for a connection that is gone.
		_ = out.SetReadDeadline(time.Unix(1, 0))
		_ = out.SetWriteDeadline(time.Now().Add(answerTime))
	})
	return ctx, func() {
		if !stop() {
			// The connection may serve another request after this.
			<-cut
			_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		}
		cancel()
	}, err
}

// inTime returns upstream's error for a request whose time is up, else err.
func inTime(ctx context.Context, err error) error {
	if ctx.Err() == context.DeadlineExceeded {
		return apierrors.NewTimeoutError(fmt.Sprintf("request did not complete within requested timeout - %s", ctx.Err()), 0)
	}
	return err
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
