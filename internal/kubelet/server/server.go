// Package server is the node's API: what the control plane asks a node for
// its pods' logs, streams (exec, attach, port-forward), statistics and health.
// Paths, parameters and answers are upstream's.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/internal/identity"
	"skiff/internal/kubelet/runtime"
)

// Pods is what the server knows of the node's pods.
type Pods interface {
	Pods() []*v1.Pod
	// Pod returns nil where there is no such pod.
	Pod(namespace, name string) *v1.Pod
	Inspect(ctx context.Context, pod *v1.Pod) (*runtime.Pod, error)
}

// Config says how the server works; all fields but Address are needed.
type Config struct {
	Address     netip.Addr
	Port        int
	ServingCert func() (*tls.Certificate, error)
	ClientCA    *x509.CertPool
	// Authenticate returns whose the bearer token is; nil: nobody's.
	Authenticate func(ctx context.Context, token string) (*identity.User, error)
	Authorize    func(ctx context.Context, user *identity.User, verb, path string) error
	Runtime      *runtime.Client
	Pods         Pods
	Directories  Directories
	NodeName     string
	RootDir      string
	Log          *slog.Logger
}

// Server serves the node's API.
type Server struct {
	Config
	stats *statistics
}

// New returns a server; Run serves.
func New(c Config) *Server {
	s := &Server{Config: c}
	s.stats = &statistics{runtime: c.Runtime, pods: c.Pods, nodeName: c.NodeName, rootDir: c.RootDir}
	return s
}

// shutdownTime is how long open requests may take when the server ends.
const shutdownTime = 2 * time.Second

// Run serves until ctx ends; an error says why it could not.
func (s *Server) Run(ctx context.Context) error {
	address := net.JoinHostPort("", strconv.Itoa(s.Port))
	if s.Address.IsValid() {
		address = netip.AddrPortFrom(s.Address, uint16(s.Port)).String()
	}
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening for the node's API on %s: %w (is another kubelet running?)", address, err)
	}
	server := &http.Server{
		Handler:           s.authenticate(s.routes()),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return s.ServingCert()
			},
			ClientAuth: tls.VerifyClientCertIfGiven,
			ClientCAs:  s.ClientCA,
			// Upgraded streams need HTTP/1.1.
			NextProtos: []string{"http/1.1"},
		},
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		if server.Shutdown(end) != nil {
			_ = server.Close()
		}
	}()
	err = server.ServeTLS(listener, "", "")
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	return err
}

// authenticate lets only those in whose client certificate or bearer token
// proves who they are, and who may do what they ask.
func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := s.user(r)
		if err != nil {
			s.Log.Warn("a request to the node's API cannot be authenticated", "path", r.URL.Path, "error", err)
		}
		if user == nil {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		verb := verbOf(r.Method)
		if err := s.Authorize(r.Context(), user, verb, r.URL.Path); err != nil {
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v): %v",
				user.Name, verb, Subresources(r.URL.Path), err), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r.WithContext(identity.NewContext(r.Context(), user)))
	})
}

// user is who sent the request; nil: nobody knows.
func (s *Server) user(r *http.Request) (*identity.User, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		return &identity.User{Name: subject.CommonName, Groups: append([]string{identity.GroupAuthenticated}, subject.Organization...)}, nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return nil, nil
	}
	return s.Authenticate(r.Context(), token)
}

func verbOf(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	default:
		return "get"
	}
}

// Subresources returns the subresources of nodes of which a user needs one to
// use a path (see "Kubelet authorization" and KEP-2862), the finest first.
func Subresources(path string) []string {
	is := func(prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }
	switch {
	case is("/stats"):
		return []string{"stats"}
	case is("/metrics"):
		return []string{"metrics"}
	case is("/logs"):
		return []string{"log"}
	case is("/healthz"):
		return []string{"healthz", "proxy"}
	case is("/configz"):
		return []string{"configz", "proxy"}
	case is("/pods"), is("/runningpods"):
		return []string{"pods", "proxy"}
	default:
		return []string{"proxy"}
	}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", ok)
	mux.HandleFunc("GET /healthz/ping", ok)
	mux.HandleFunc("GET /pods", s.listPods)
	mux.HandleFunc("GET /pods/{$}", s.listPods)
	mux.HandleFunc("GET /runningpods", s.listRunning)
	mux.HandleFunc("GET /runningpods/{$}", s.listRunning)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	for _, method := range []string{"GET", "POST"} {
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", s.exec)
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{uid}/{container}", s.exec)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", s.attach)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{uid}/{container}", s.attach)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", s.portForward)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}/{uid}", s.portForward)
	}
	mux.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.run)
	mux.HandleFunc("POST /run/{namespace}/{pod}/{uid}/{container}", s.run)
	mux.Handle("GET /logs/", http.StripPrefix("/logs/", http.FileServer(http.Dir("/var/log"))))
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.Handle("GET /metrics", s.metrics())
	mux.Handle("GET /metrics/resource", s.resourceMetrics())
	mux.HandleFunc("GET /configz", s.configz)
	mux.HandleFunc("PUT /localVolumes/{name}", s.makeVolume)
	mux.HandleFunc("DELETE /localVolumes/{name}", s.removeVolume)
	return mux
}

func ok(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok"))
}

func (s *Server) listPods(w http.ResponseWriter, _ *http.Request) {
	list := &v1.PodList{}
	list.APIVersion, list.Kind = "v1", "PodList"
	for _, pod := range s.Pods.Pods() {
		list.Items = append(list.Items, *pod)
	}
	s.json(w, list)
}

// listRunning lists the pods that the runtime has containers of, with as much
// of their spec as it knows.
func (s *Server) listRunning(w http.ResponseWriter, r *http.Request) {
	list := &v1.PodList{}
	list.APIVersion, list.Kind = "v1", "PodList"
	for _, pod := range s.Pods.Pods() {
		state, err := s.Pods.Inspect(r.Context(), pod)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		out := v1.Pod{}
		out.Name, out.Namespace, out.UID = pod.Name, pod.Namespace, pod.UID
		for _, c := range state.Alive() {
			out.Spec.Containers = append(out.Spec.Containers, v1.Container{Name: c.Name, Image: c.Image})
		}
		if len(out.Spec.Containers) > 0 {
			list.Items = append(list.Items, out)
		}
	}
	s.json(w, list)
}

// configz tells the settings that others may want to know.
func (s *Server) configz(w http.ResponseWriter, _ *http.Request) {
	s.json(w, map[string]any{"kubeletconfig": map[string]any{
		"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
		"port": s.Port, "cgroupDriver": "cgroupfs",
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": false}},
	}})
}

func (s *Server) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.Log.Debug("writing answer", "err", err)
	}
}
