package pebble

import (
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
)

// logger hands Pebble's own messages to slog. They are for debugging only:
// what a user should know comes back as an error.
type logger struct{ log *slog.Logger }

func (l logger) Infof(format string, args ...any) {
	l.log.Debug("Pebble", "message", fmt.Sprintf(format, args...))
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("Pebble failed", "message", fmt.Sprintf(format, args...))
}

// Fatalf must not return: the database cannot go on and still keep its
// promises (for example when its manifest cannot be synced).
func (l logger) Fatalf(format string, args ...any) {
	panic("store: the database cannot go on: " + fmt.Sprintf(format, args...))
}

// listener reports what is worth a line in the log.
func listener(log *slog.Logger) *pebble.EventListener {
	l := &pebble.EventListener{
		BackgroundError: func(err error) { log.Error("Database background work failed", "err", err) },
		DiskSlow:        func(i pebble.DiskSlowInfo) { log.Warn("Disk is slow", "detail", i.String()) },
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) { log.Debug("Writes stall", "reason", i.Reason) },
		WriteStallEnd:   func() { log.Debug("Writes go on") },
	}
	l.EnsureDefaults(nil)
	return l
}
