package cli

import (
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"
)

// adoptLibraryLogs sends what libraries log to the process's own log. They know
// no other way than a logger for the whole process, so this is the command
// line's business alone. What controller-runtime says of itself is debugging.
func adoptLibraryLogs(log *slog.Logger) {
	klog.SetSlogLogger(log)
	crlog.SetLogger(logr.FromSlogHandler(log.Handler()).V(4))
}
