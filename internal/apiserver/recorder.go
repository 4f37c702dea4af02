package apiserver

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"skiff/internal/apiserver/audit"
)

// recorder stands between a handler and the connection. It remembers what was
// answered and how much, and keeps a handler whose time is up from answering
// any more: the handler's headers are its own until it writes.
type recorder struct {
	out http.ResponseWriter
	// lasting tells long-running requests.
	lasting bool
	// body counts what is read of the request.
	body countedBody
	// waited is how long the request waited for its turn. It is the handler's
	// until the handler has returned.
	waited time.Duration

	mu     sync.Mutex
	header http.Header
	// record is the request's, or nil.
	record *audit.Record
	code   int
	size   int64
	wrote  bool
	// over is set once the request was answered for the handler.
	over bool
}

// countedBody counts what is read of a request's body.
type countedBody struct {
	io.ReadCloser
	size int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.size += int64(n)
	return n, err
}

func newRecorder(w http.ResponseWriter, r *http.Request, lasting bool) *recorder {
	rec := &recorder{out: w, lasting: lasting, code: http.StatusOK}
	if lasting {
		// Nobody answers for these handlers.
		rec.header = w.Header()
	} else {
		rec.header = make(http.Header, 8)
	}
	if r.Body != nil && r.Body != http.NoBody {
		rec.body.ReadCloser = r.Body
		r.Body = &rec.body
	}
	return rec
}

// audited gives the request its audit record.
func (r *recorder) audited(record *audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record = record
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// beginLocked sends the head of the answer, if that is still to be done.
func (r *recorder) beginLocked(code int) {
	if r.wrote {
		return
	}
	if !r.lasting {
		maps.Copy(r.out.Header(), r.header)
	}
	if code < 200 && code != http.StatusSwitchingProtocols {
		r.out.WriteHeader(code)
		return
	}
	r.wrote, r.code = true, code
	r.record.Answering(code, r.lasting)
	r.out.WriteHeader(code)
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.beginLocked(code)
	}
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return 0, http.ErrHandlerTimeout
	}
	r.beginLocked(r.code)
	n, err := r.out.Write(p)
	r.size += int64(n)
	return n, err
}

// Hijack implements http.Hijacker, which the proxy of upgraded connections asks
// for by type.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, nil, http.ErrHandlerTimeout
	}
	if !r.wrote {
		r.code, r.wrote = http.StatusSwitchingProtocols, true
		r.record.Answering(r.code, r.lasting)
	}
	return http.NewResponseController(r.out).Hijack()
}

// Flush implements http.Flusher.
func (r *recorder) Flush() { _ = r.FlushError() } // what cannot be flushed is sent at the end

// FlushError is what http.ResponseController asks for.
func (r *recorder) FlushError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return http.ErrHandlerTimeout
	}
	r.beginLocked(r.code)
	return http.NewResponseController(r.out).Flush()
}

// Unwrap lets http.ResponseController find the rest.
func (r *recorder) Unwrap() http.ResponseWriter { return r.out }

// takeOver answers for the handler, which cannot say anything from then on. If
// it has begun to answer, nothing is sent, and the result is false.
func (r *recorder) takeOver(code int, contentType string, body []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	if r.wrote {
		return false
	}
	// The handler may be writing to its headers at this moment: none of them
	// are sent.
	r.wrote, r.code = true, code
	r.record.Answering(code, r.lasting)
	// Of an HTTP/1 connection nobody knows how much of the body is still to come.
	r.out.Header().Set("Connection", "close")
	r.out.Header().Set("Content-Type", contentType)
	r.out.Header().Set("Cache-Control", "no-cache, private")
	r.out.WriteHeader(code)
	n, _ := r.out.Write(body)
	r.size += int64(n)
	return true
}

// end hands on what the handler said after its answer (trailers), and returns
// what was answered.
func (r *recorder) end() (code int, size int64, record *audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wrote && !r.over && !r.lasting {
		for k, v := range r.header {
			if len(r.header["Trailer"]) > 0 || strings.HasPrefix(k, http.TrailerPrefix) {
				r.out.Header()[k] = v
			}
		}
	}
	return r.code, r.size, r.record
}

// begun reports whether anything was answered.
func (r *recorder) begun() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wrote
}
