// Package apiserver is the HTTP face of the API: it authenticates, authorizes,
// negotiates formats and hands each request to the verbs layer. Everything
// below the formats is in the packages beneath: verbs, admission, authz, authn.
package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"skiff/internal/apiserver/aggregate"
	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/authn"
	"skiff/internal/apiserver/endpoint"
	"skiff/internal/apiserver/features"
	"skiff/internal/apiserver/flowcontrol"
	"skiff/internal/apiserver/verbs"
)

// Config is what a Server is made of. Zero values mean the defaults that stand at
// the fields.
type Config struct {
	Verbs *verbs.Server
	// Address is where clients outside reach the server: host and port.
	Address string
	// Authenticator proves who asks.
	Authenticator authn.Authenticator
	// Nodes connects to kubelets; nil where there are none.
	Nodes NodeDialer
	Clock clock.WithTicker
	Log   *slog.Logger
	// Handlers answer GET of further paths, e.g. OpenID documents. They are
	// authorized as non-resource requests.
	Handlers map[string]http.Handler
	// OpenAPI answers below /openapi/.
	OpenAPI http.Handler
	// Extensions answer for the group versions that are not this server's; nil
	// where there are none.
	Extensions *aggregate.Aggregator
	// Definitions make the custom resources; nil where there are none.
	Definitions Definitions
	// Checks are what /readyz asks besides the server itself, by name.
	Checks map[string]func(context.Context) error
	// Flags are the settings that /flagz shows, by upstream's names.
	Flags map[string]string

	// FlowControl divides the server among its users; if it is nil, InFlight
	// bounds how many requests there are at a time.
	FlowControl *flowcontrol.Controller
	InFlight    *flowcontrol.InFlight
	// Audit records requests; nil records none.
	Audit *audit.Auditor
	Limits
	// Registry holds the metrics that /metrics shows, of all parts of the process;
	// nil makes one. Collectors are further ones of the API server.
	Registry   *prometheus.Registry
	Collectors []prometheus.Collector
	// DisabledMetrics are not shown.
	DisabledMetrics []string
	// Features says which optional features are on.
	Features features.Set
}

// Definitions are where resources come from that were defined at run time.
type Definitions interface {
	// Await returns when a resource that is already there for clients of other
	// servers is served here, too.
	Await(ctx context.Context, gv schema.GroupVersion, plural string)
}

// Limits bound what requests may take, and say how the server ends.
type Limits struct {
	// RequestTimeout bounds every request that is not long-running (default one
	// minute), MinWatchTimeout is the least time that a watch lasts whose client
	// does not say (default half an hour, and at most twice that).
	RequestTimeout  time.Duration
	MinWatchTimeout time.Duration
	// WatchWriteTimeout is how long a watcher may take to accept a batch of
	// events before it is cut off (default 30 s).
	WatchWriteTimeout time.Duration
	// ShutdownDelay is how long the server goes on as usual once /readyz says
	// that it ends, so that load balancers notice. With ShutdownRetryAfter new
	// requests are then refused while those in flight finish.
	ShutdownDelay      time.Duration
	ShutdownRetryAfter bool
	// StreamsPerConnection bounds the requests of one HTTP/2 connection at a
	// time (default 1000).
	StreamsPerConnection int
	// GoawayChance is the part of the HTTP/2 requests whose client is asked to
	// connect anew, so that clients spread over servers.
	GoawayChance float64
	// CORSOrigins are the web pages' origins that may use the API from a browser.
	CORSOrigins []*regexp.Regexp
	// StrictTransport are directives of the Strict-Transport-Security header.
	StrictTransport []string
	// DisableProfiling leaves out /debug/pprof.
	DisableProfiling bool
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
	// draining is set when the server is about to stop; stopping ends when what
	// has no end of its own must stop.
	draining atomic.Bool
	stopping context.Context
	stop     context.CancelFunc
	crew     *crew
	// underWay is held for reading by every request that has an end of its own.
	underWay sync.RWMutex
}

// New makes a server; Handler or Serve put it to work.
func New(c Config) *Server {
	setDefault(&c.RequestTimeout, time.Minute)
	setDefault(&c.MinWatchTimeout, 30*time.Minute)
	setDefault(&c.WatchWriteTimeout, 30*time.Second)
	setDefault(&c.StreamsPerConnection, 1000)
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.FlowControl != nil {
		c.Collectors = append(c.Collectors, c.FlowControl)
	}
	s := &Server{Config: c, metrics: newMetrics(&c), endpoints: endpoint.New(c.Verbs), toPods: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}}
	s.started = c.Clock.Now()
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.crew = newCrew(s.stopping)
	s.mux = s.paths()
	return s
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Drain makes /readyz say that the server is about to stop. Nothing else
// changes yet.
func (s *Server) Drain() { s.draining.Store(true) }

// Serve answers on l until ctx ends. Then it says so in /readyz, goes on for
// ShutdownDelay, ends watches and streams, and lets requests in flight finish.
func (s *Server) Serve(ctx context.Context, l net.Listener, tlsConfig *tls.Config) error {
	defer s.stop()
	conf := tlsConfig.Clone()
	conf.NextProtos = []string{"h2", "http/1.1"}
	server := &http.Server{
		Handler:           s,
		TLSConfig:         conf,
		ReadHeaderTimeout: 32 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    1 << 20,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: s.StreamsPerConnection},
		ErrorLog:          slog.NewLogLogger(handshakes{s.Log.Handler(), s.metrics.handshakes}, slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(l, "", "") }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving the API on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.Drain()
	if s.ShutdownDelay > 0 {
		<-s.Clock.After(s.ShutdownDelay)
	}
	s.stop()
	finish, cancel := context.WithTimeout(context.Background(), s.RequestTimeout)
	defer cancel()
	if s.ShutdownRetryAfter {
		// What is new is refused by an answer, not by a closed port.
		s.finish(finish)
	}
	if err := server.Shutdown(finish); err != nil {
		s.Log.Warn("some requests did not finish in time", "error", err)
		server.Close()
	}
	return ctx.Err()
}

// finish waits for the requests under way.
func (s *Server) finish(ctx context.Context) {
	finished := make(chan struct{})
	go func() {
		s.underWay.Lock()
		defer s.underWay.Unlock()
		close(finished)
	}()
	select {
	case <-finished:
	case <-ctx.Done():
	}
}

func (s *Server) servePath(w http.ResponseWriter, r *http.Request, info *requestInfo) {
	if h := s.mux[info.Path]; h != nil {
		h(w, r)
		return
	}
	if strings.TrimRight(info.Path, "/") == "/version" {
		versions(w, r)
		return
	}
	if h := s.Handlers[strings.TrimSuffix(info.Path, "/")]; h != nil {
		if getOnly(w, r) {
			h.ServeHTTP(w, r)
		}
		return
	}
	if s.OpenAPI != nil && (info.Path == "/openapi/v2" || info.Path == "/openapi/v3" || strings.HasPrefix(info.Path, "/openapi/v3/")) {
		s.OpenAPI.ServeHTTP(w, r)
		return
	}
	if s.serveDiscoveryPath(w, r, info) || s.serveHealthPath(w, r, info) || !s.DisableProfiling && s.serveProfile(w, r, info) {
		return
	}
	http.NotFound(w, r)
}

// notFound is the answer for paths that mean nothing among the resources.
func notFound() error {
	e := apierrors.NewGenericServerResponse(http.StatusNotFound, "", noResource, "", "", 0, false)
	e.ErrStatus.Message = "the server could not find the requested resource"
	return e
}
