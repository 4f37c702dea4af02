package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"gopkg.in/natefinch/lumberjack.v2"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// LogOptions say where the log is and how long it may become.
type LogOptions struct {
	// Path is a file; "-" is the standard output.
	Path string
	// MaxAge is the greatest age of old files in days, MaxBackups how many of
	// them are kept, MaxSize the size in megabytes at which a new one is begun;
	// 0 is no limit (for the size: 100).
	MaxAge, MaxBackups, MaxSize int
	Compress                    bool
	// Format is "json" (the default) or "legacy", one line of text each.
	Format string
}

// Log is a Sink that writes lines.
type Log struct {
	format string
	mu     sync.Mutex
	out    io.Writer
}

// NewLog opens the log.
func NewLog(o LogOptions) (*Log, error) {
	if o.Format != "" && o.Format != "json" && o.Format != "legacy" {
		return nil, fmt.Errorf("invalid audit log format %s, allowed formats are %q", o.Format, "legacy,json")
	}
	l := &Log{format: o.Format, out: os.Stdout}
	if o.Path != "-" {
		// Whether the file can be written is found out now, not with the first
		// event.
		f, err := os.OpenFile(o.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		l.out = &lumberjack.Logger{Filename: o.Path, MaxAge: o.MaxAge, MaxBackups: o.MaxBackups, MaxSize: o.MaxSize, Compress: o.Compress}
	}
	return l, nil
}

// Write implements Sink.
func (l *Log) Write(events ...*auditv1.Event) error {
	var text bytes.Buffer
	for _, e := range events {
		if l.format == "legacy" {
			text.WriteString(legacy(e))
			continue
		}
		if err := json.NewEncoder(&text).Encode(e); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.out.Write(text.Bytes())
	return err
}

// Close closes the file.
func (l *Log) Close() error {
	if c, ok := l.out.(*lumberjack.Logger); ok {
		return c.Close()
	}
	return nil
}

func legacy(e *auditv1.Event) string {
	orNone := func(s, none string) string {
		if s == "" {
			return none
		}
		return s
	}
	quoted := make([]string, len(e.User.Groups))
	for i, g := range e.User.Groups {
		quoted[i] = strconv.Quote(g)
	}
	as, asGroups := "<self>", "<lookup>"
	if u := e.ImpersonatedUser; u != nil {
		as = orNone(u.Username, as)
		if len(u.Groups) > 0 {
			asGroups = strings.Join(u.Groups, ",")
		}
	}
	namespace, response, ip := "<none>", "<deferred>", "<unknown>"
	if e.ObjectRef != nil {
		namespace = orNone(e.ObjectRef.Namespace, namespace)
	}
	if e.ResponseStatus != nil {
		response = strconv.Itoa(int(e.ResponseStatus.Code))
	}
	if len(e.SourceIPs) > 0 {
		ip = e.SourceIPs[0]
	}
	return fmt.Sprintf("%s AUDIT: id=%q stage=%q ip=%q method=%q user=%q groups=%q as=%q asgroups=%q user-agent=%q namespace=%q uri=%q response=\"%s\"\n",
		e.RequestReceivedTimestamp.Format("2006-01-02T15:04:05.000000Z07:00"), e.AuditID, e.Stage, ip, e.Verb, orNone(e.User.Username, "<none>"),
		strings.Join(quoted, ","), as, asGroups, e.UserAgent, namespace, e.RequestURI, response)
}
