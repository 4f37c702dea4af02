package cli

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"
)

// adoptLibraryLogs sends what libraries log to the process's own log. They know
// no other way than a logger for the whole process, so this is the command
// line's business alone. What controller-runtime says of itself is debugging.
func adoptLibraryLogs(log *slog.Logger) {
	klog.SetSlogLogger(slog.New(libraries{log.Handler()}))
	crlog.SetLogger(logr.FromSlogHandler(log.Handler()).V(4))
}

// libraries hands on what libraries log. Those that copy streams call it an
// error that a connection ended, which every exec and port-forward does: that is
// for debugging.
type libraries struct{ slog.Handler }

func (h libraries) Handle(ctx context.Context, r slog.Record) error {
	ended := false
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			ended = ended || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
		}
		return !ended
	})
	if ended {
		r.Level = slog.LevelDebug
		if !h.Enabled(ctx, r.Level) {
			return nil
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h libraries) WithAttrs(attrs []slog.Attr) slog.Handler {
	return libraries{h.Handler.WithAttrs(attrs)}
}

func (h libraries) WithGroup(name string) slog.Handler { return libraries{h.Handler.WithGroup(name)} }
