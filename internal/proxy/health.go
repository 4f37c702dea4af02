package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// healthChecks answers load balancers that ask, at a Service's
// spec.healthCheckNodePort, whether this node has endpoints of it.
type healthChecks struct {
	log     *slog.Logger
	listen  func(port int) (net.Listener, error)
	servers map[types.NamespacedName]*healthCheck
}

type healthCheck struct {
	port   int
	count  atomic.Int64
	server *http.Server
}

// healthTarget is the wanted state for one Service.
type healthTarget struct {
	port, count int
}

// sync makes the servers those of want.
func (h *healthChecks) sync(want map[types.NamespacedName]healthTarget) {
	for name, s := range h.servers {
		if t, ok := want[name]; !ok || t.port != s.port {
			h.stop(name)
		}
	}
	for name, t := range want {
		s := h.servers[name]
		if s == nil {
			if s = h.start(name, t.port); s == nil {
				continue
			}
		}
		s.count.Store(int64(t.count))
	}
}

func (h *healthChecks) start(name types.NamespacedName, port int) *healthCheck {
	l, err := h.listen(port)
	if err != nil {
		h.log.Error("health check of a service cannot listen", "service", name, "port", port, "err", err)
		return nil
	}
	s := &healthCheck{port: port}
	s.server = &http.Server{Handler: s.handler(name), ReadHeaderTimeout: 10 * time.Second}
	h.servers[name] = s
	go func() {
		if err := s.server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			h.log.Error("health check of a service ended", "service", name, "err", err)
		}
	}()
	return s
}

func (h *healthChecks) stop(name types.NamespacedName) {
	_ = h.servers[name].server.Close()
	delete(h.servers, name)
}

func (h *healthChecks) close() { h.sync(nil) }

// handler answers 200 while there are local endpoints and 503 otherwise, with
// the body that upstream's proxy gives.
func (s *healthCheck) handler(name types.NamespacedName) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := s.count.Load()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(n, 10))
		if n == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"service":             map[string]string{"namespace": name.Namespace, "name": name.Name},
			"localEndpoints":      n,
			"serviceProxyHealthy": true,
		})
	})
}

func listenAny(port int) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(context.Background(), "tcp", ":"+strconv.Itoa(port))
}
