package cli

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/go-logr/logr"
)

// TestLibraryLogs logs as libraries do, through klog's way to slog.
func TestLibraryLogs(t *testing.T) {
	for _, test := range []struct {
		err   error
		level slog.Level
		want  string
	}{
		{errors.New("disk full"), slog.LevelInfo, "ERROR"},
		{fmt.Errorf("read: %w", net.ErrClosed), slog.LevelInfo, ""},
		{&net.OpError{Op: "write", Err: syscall.EPIPE}, slog.LevelInfo, ""},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, slog.LevelDebug, "DEBUG"},
	} {
		var out bytes.Buffer
		log := logr.FromSlogHandler(libraries{slog.NewTextHandler(&out, &slog.HandlerOptions{Level: test.level})})
		log.WithValues("a", 1).Error(test.err, "copying failed")
		if got := out.String(); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%v: logged %q, want level %q", test.err, got, test.want)
		}
	}
}
