package server

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/kubelet/runtime"
)

// find returns the pod and the newest instance of the container that a request
// names, or answers the request and returns nil.
func (s *Server) find(w http.ResponseWriter, r *http.Request) (*v1.Pod, *runtime.Pod) {
	pod := s.Pods.Pod(r.PathValue("namespace"), r.PathValue("pod"))
	if pod == nil || r.PathValue("uid") != "" && r.PathValue("uid") != string(pod.UID) {
		http.Error(w, "pod does not exist", http.StatusNotFound)
		return nil, nil
	}
	state, err := s.Pods.Inspect(r.Context(), pod)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return nil, nil
	}
	return pod, state
}

func (s *Server) findRunning(w http.ResponseWriter, r *http.Request) *runtime.Container {
	pod, state := s.find(w, r)
	if pod == nil {
		return nil
	}
	name := r.PathValue("container")
	c := state.Latest(name)
	if c == nil {
		http.Error(w, fmt.Sprintf("container not found (%q)", name), http.StatusNotFound)
		return nil
	}
	return c
}

// stream is what a request for exec or attach wants to be connected.
type stream struct {
	stdin, stdout, stderr, tty bool
}

func streamOf(q url.Values) (stream, error) {
	on := func(name string) bool { v := q.Get(name); return v == "1" || v == "true" }
	s := stream{stdin: on("input") || on("stdin"), stdout: on("output") || on("stdout"), stderr: on("error") || on("stderr"), tty: on("tty")}
	if s.tty {
		// A terminal has one output.
		s.stderr = false
	}
	if !s.stdin && !s.stdout && !s.stderr {
		return s, fmt.Errorf("you must specify at least 1 of stdin, stdout, stderr")
	}
	return s, nil
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	want, err := streamOf(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c := s.findRunning(w, r)
	if c == nil {
		return
	}
	resp, err := s.Runtime.Exec(r.Context(), &cri.ExecRequest{
		ContainerId: c.ID, Cmd: r.URL.Query()["command"],
		Stdin: want.stdin, Stdout: want.stdout, Stderr: want.stderr, Tty: want.tty,
	})
	if err != nil {
		s.refused(w, err)
		return
	}
	s.proxy(w, r, resp.Url)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	want, err := streamOf(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c := s.findRunning(w, r)
	if c == nil {
		return
	}
	resp, err := s.Runtime.Attach(r.Context(), &cri.AttachRequest{
		ContainerId: c.ID, Stdin: want.stdin, Stdout: want.stdout, Stderr: want.stderr, Tty: want.tty,
	})
	if err != nil {
		s.refused(w, err)
		return
	}
	s.proxy(w, r, resp.Url)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	pod, state := s.find(w, r)
	if pod == nil {
		return
	}
	sandbox := state.Ready()
	if sandbox == nil {
		http.Error(w, "pod is not running", http.StatusInternalServerError)
		return
	}
	// WebSocket clients name their ports in the request, SPDY ones later.
	var ports []int32
	for _, text := range r.URL.Query()["port"] {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			http.Error(w, fmt.Sprintf("invalid port %q: must be a number from 1 to 65535", text), http.StatusBadRequest)
			return
		}
		ports = append(ports, int32(port))
	}
	resp, err := s.Runtime.PortForward(r.Context(), &cri.PortForwardRequest{PodSandboxId: sandbox.ID, Port: ports})
	if err != nil {
		s.refused(w, err)
		return
	}
	s.proxy(w, r, resp.Url)
}

// run runs a command to its end and answers with its output.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	c := s.findRunning(w, r)
	if c == nil {
		return
	}
	command := r.URL.Query()["cmd"]
	if len(command) == 0 {
		http.Error(w, "parameter cmd is missing: name the command to be run", http.StatusBadRequest)
		return
	}
	resp, err := s.Runtime.ExecSync(r.Context(), &cri.ExecSyncRequest{ContainerId: c.ID, Cmd: command})
	if err != nil {
		s.refused(w, err)
		return
	}
	if resp.ExitCode != 0 {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = w.Write(append(resp.Stdout, resp.Stderr...))
}

// refused answers with the runtime's refusal.
func (s *Server) refused(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch status.Code(err) {
	case codes.InvalidArgument:
		code = http.StatusBadRequest
	case codes.NotFound:
		code = http.StatusNotFound
	}
	http.Error(w, status.Convert(err).Message(), code)
}

// proxy connects the upgraded request with the runtime's streaming server,
// whatever protocol the two agree on.
func (s *Server) proxy(w http.ResponseWriter, r *http.Request, address string) {
	u, err := url.Parse(address)
	if err != nil {
		http.Error(w, fmt.Sprintf("the runtime's streaming address %q is not a URL", address), http.StatusInternalServerError)
		return
	}
	handler := proxy.NewUpgradeAwareHandler(u, nil, false, true, responder{})
	handler.ServeHTTP(w, r)
}

type responder struct{}

// Error implements proxy.ErrorResponder.
func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusInternalServerError)
}
