// Package apiserver is the HTTP face of the API: it authenticates, authorizes,
// negotiates formats and hands each request to the verbs layer. Everything
// below the formats is in the packages beneath: verbs, admission, authz, authn.
package apiserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"

	"skiff/internal/apiserver/authn"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/endpoint"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/identity"
)

// requestTimeout bounds every request that is not long-running (upstream's
// --request-timeout).
const requestTimeout = 60 * time.Second

// Config is what a Server is made of.
type Config struct {
	Verbs *verbs.Server
	// Authenticator proves who asks; requests without credentials are
	// anonymous.
	Authenticator authn.Authenticator
	// Nodes connects to kubelets; nil where there are none.
	Nodes NodeDialer
	Clock clock.WithTicker
	Log   *slog.Logger
	// Handlers serve further paths exactly, e.g. OpenID documents. They are
	// authorized as non-resource requests.
	Handlers map[string]http.Handler
	// OpenAPI answers below /openapi/.
	OpenAPI http.Handler
	// Checks are what /readyz asks besides the server itself, by name.
	Checks map[string]func(context.Context) error
	// Flags are the settings that /flagz shows, by upstream's names.
	Flags map[string]string
}

// Server answers API requests.
type Server struct {
	Config
	mux       map[string]http.HandlerFunc
	discovery discoveryCache
	endpoints *endpoint.Resolver
	metrics   *metrics
	// toPods reaches pods and services that users name; their certificates
	// are their own business, as with upstream.
	toPods  http.RoundTripper
	started time.Time
	// draining is set when the server is about to stop.
	draining atomic.Bool
}

// New makes a server; Handler or Serve put it to work.
func New(c Config) *Server {
	s := &Server{Config: c, metrics: newMetrics(), endpoints: endpoint.New(c.Verbs), toPods: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}}
	s.started = c.Clock.Now()
	s.mux = s.paths()
	return s
}

// Serve answers on l until ctx ends, then lets requests in flight finish.
func (s *Server) Serve(ctx context.Context, l net.Listener, tlsConfig *tls.Config) error {
	conf := tlsConfig.Clone()
	conf.NextProtos = []string{"h2", "http/1.1"}
	server := &http.Server{
		Handler:           s,
		TLSConfig:         conf,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    1 << 20,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1000},
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(l, "", "") }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving the API on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.draining.Store(true)
	stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		server.Close()
	}
	return ctx.Err()
}

type warnKey struct{}

func warning(ctx context.Context, text string) {
	if f, ok := ctx.Value(warnKey{}).(func(string)); ok {
		f(text)
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	info := parseRequest(r)
	observed := s.metrics.begin(info)
	rec := &responseRecorder{ResponseWriter: w, code: http.StatusOK}
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				observed(rec.code)
				panic(p)
			}
			s.Log.Error("a request made the server panic", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			if !rec.wrote {
				writeError(rec, r, apierrors.NewInternalError(fmt.Errorf("the server failed while it handled the request")))
			}
		}
		observed(rec.code)
	}()
	s.serve(rec, r, info)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, info *requestInfo) {
	warn := func(text string) { w.Header().Add("Warning", warningHeader(text)) }
	ctx := context.WithValue(r.Context(), warnKey{}, warn)
	ctx = verbs.WithWarnings(ctx, warn)
	ctx = verbs.WithUserAgent(ctx, r.UserAgent())
	if !info.longRunning() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	user, err := s.Authenticator.Authenticate(r)
	if err != nil {
		s.Log.Debug("authentication failed", "path", info.Path, "error", err)
		writeError(w, r, apierrors.NewUnauthorized("Unauthorized"))
		return
	}
	if user == nil {
		user = &identity.User{Name: identity.UserAnonymous, Groups: []string{identity.GroupUnauthenticated}}
	}
	ctx = identity.NewContext(ctx, user)
	if ctx, err = s.impersonate(ctx, r); err == nil {
		err = s.authorize(ctx, info)
	}
	if err != nil {
		if user.Name == identity.UserAnonymous && len(r.Header.Get("Authorization")) > 0 {
			err = apierrors.NewUnauthorized("Unauthorized")
		}
		writeError(w, r, err)
		return
	}
	r = r.WithContext(ctx)
	if !info.IsResource {
		s.servePath(w, r, info)
		return
	}
	if err := s.serveResource(w, r, info); err != nil {
		writeError(w, r, err)
	}
}

func (s *Server) authorize(ctx context.Context, info *requestInfo) error {
	a := &authz.Attributes{Verb: info.Verb}
	if info.IsResource {
		a.Group, a.Version, a.Resource, a.Subresource = info.GroupVersion.Group, info.GroupVersion.Version, info.Resource, info.Subresource
		a.Namespace, a.Name = info.Namespace, info.Name
	} else {
		a.Path = info.Path
	}
	return s.Verbs.Authorize(ctx, a)
}

func (s *Server) servePath(w http.ResponseWriter, r *http.Request, info *requestInfo) {
	if h := s.mux[info.Path]; h != nil {
		h(w, r)
		return
	}
	if h := s.Handlers[info.Path]; h != nil {
		h.ServeHTTP(w, r)
		return
	}
	if s.OpenAPI != nil && strings.HasPrefix(info.Path, "/openapi/") {
		s.OpenAPI.ServeHTTP(w, r)
		return
	}
	if s.serveDiscoveryPath(w, r, info) || s.serveHealthPath(w, r, info) {
		return
	}
	writeError(w, r, notFound())
}

// notFound is the answer for paths that mean nothing.
func notFound() error {
	e := apierrors.NewGenericServerResponse(http.StatusNotFound, "", noResource, "", "", 0, false)
	e.ErrStatus.Message = "the server could not find the requested resource"
	return e
}

// warningHeader formats a warning as RFC 7234 has it, cut to a sane length.
func warningHeader(text string) string {
	const limit = 4096
	if len(text) > limit {
		text = text[:limit]
	}
	quoted := make([]byte, 0, len(text)+2)
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			quoted = append(quoted, '\\', c)
		case c < ' ':
			quoted = append(quoted, ' ')
		default:
			quoted = append(quoted, c)
		}
	}
	return `299 - "` + string(quoted) + `"`
}

// responseRecorder remembers what was answered.
type responseRecorder struct {
	http.ResponseWriter
	code  int
	wrote bool
}

func (r *responseRecorder) WriteHeader(code int) {
	if !r.wrote {
		r.code, r.wrote = code, true
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *responseRecorder) Write(p []byte) (int, error) {
	r.wrote = true
	return r.ResponseWriter.Write(p)
}

// Hijack implements http.Hijacker, which the proxy of upgraded connections asks
// for by type.
func (r *responseRecorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	r.wrote = true
	return http.NewResponseController(r.ResponseWriter).Hijack()
}

// Flush implements http.Flusher.
func (r *responseRecorder) Flush() {
	// A connection that cannot be flushed sends when it ends.
	_ = http.NewResponseController(r.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController find the rest.
func (r *responseRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
