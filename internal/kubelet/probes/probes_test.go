package probes

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"skiff/internal/kubelet/handlers"
)

func TestThresholds(t *testing.T) {
	p := &v1.Probe{SuccessThreshold: 2, FailureThreshold: 3}
	for _, test := range []struct {
		kind Kind
		runs string // + for success, - for failure
		want Result
	}{
		{Readiness, "", Failure},
		{Readiness, "+", Failure},
		{Readiness, "++", Success},
		{Readiness, "++--", Success},
		{Readiness, "++---", Failure},
		{Readiness, "++--+--", Success},
		{Liveness, "", Success},
		{Liveness, "--", Success},
		{Liveness, "---", Failure},
		{Startup, "", Unknown},
		{Startup, "--", Unknown},
		{Startup, "--+-", Unknown},
		{Startup, "--++", Success},
	} {
		r := run{result: test.kind.initial()}
		for _, c := range test.runs {
			r.add(p, c == '+')
		}
		if r.result != test.want {
			t.Errorf("%s %q: %v, want %v", test.kind, test.runs, r.result, test.want)
		}
	}
}

// TestGate runs real HTTP probes: readiness waits for startup, liveness tells
// when the server breaks.
func TestGate(t *testing.T) {
	var started, broken atomic.Bool
	var early atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/startup" && !started.Load(), r.URL.Path == "/live" && broken.Load():
			w.WriteHeader(http.StatusInternalServerError)
		case r.URL.Path != "/startup" && !started.Load():
			early.Store(true)
		}
		if !strings.HasPrefix(r.UserAgent(), "kube-probe/") {
			t.Errorf("user agent %q", r.UserAgent())
		}
	}))
	defer server.Close()
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	probe := func(path string) *v1.Probe {
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: intstr.Parse(port)}},
			PeriodSeconds: 1, FailureThreshold: 1, SuccessThreshold: 1, TimeoutSeconds: 1}
	}
	c := &v1.Container{Name: "c", StartupProbe: probe("/startup"), ReadinessProbe: probe("/ready"), LivenessProbe: probe("/live")}
	c.StartupProbe.FailureThreshold = 100
	recorder := record.NewFakeRecorder(100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changed := make(chan string, 100)
	m := New(ctx, &handlers.Runner{UserAgent: "kube-probe/1.36"}, recorder, clock.RealClock{}, slog.New(slog.DiscardHandler),
		func(uid string) { changed <- uid })
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	pod := &v1.Pod{}
	pod.UID = "uid"
	m.SetPod("uid", []Target{{Pod: pod, Container: c, ContainerID: "id", StartedAt: time.Now(), PodIP: host, Reference: &v1.ObjectReference{}}})

	if event := <-recorder.Events; event != "Warning Unhealthy Startup probe failed: HTTP probe failed with statuscode: 500" {
		t.Errorf("event %q", event)
	}
	if m.Started(c, "id") || m.Ready(c, "id") {
		t.Error("started before the startup probe passed")
	}
	started.Store(true)
	for !m.Ready(c, "id") {
		<-changed
	}
	if early.Load() {
		t.Error("another probe ran before the startup probe passed")
	}
	broken.Store(true)
	for m.Result(c, "id", Liveness) != Failure {
		<-changed
	}
	m.SetPod("uid", nil)
	if m.Result(c, "id", Liveness) != Success || m.Ready(c, "id") {
		t.Error("the probes of a container that is gone are remembered")
	}
	cancel()
	<-done
}

// TestSlowProbe runs a probe that once takes longer than its period: it goes on
// afterwards.
func TestSlowProbe(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case asked <- struct{}{}:
		case <-r.Context().Done():
		}
		select {
		case <-answer:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := &v1.Container{Name: "c", ReadinessProbe: &v1.Probe{
		ProbeHandler:  v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.Parse(port)}},
		PeriodSeconds: 1, FailureThreshold: 1, SuccessThreshold: 1, TimeoutSeconds: 60,
	}}
	clk := clocktesting.NewFakeClock(time.Now())
	changed := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	m := New(ctx, &handlers.Runner{}, record.NewFakeRecorder(100), clk, slog.New(slog.DiscardHandler), func(uid string) { changed <- uid })
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	defer func() { cancel(); <-done }()
	pod := &v1.Pod{}
	pod.UID = "uid"
	m.SetPod("uid", []Target{{Pod: pod, Container: c, ContainerID: "id", StartedAt: clk.Now(), PodIP: host, Reference: &v1.ObjectReference{}}})
	<-asked
	late := time.After(time.Minute)
	// pass lets periods pass until something happens.
	pass := func(what string, happens <-chan struct{}) {
		t.Helper()
		for {
			clk.Step(time.Second)
			select {
			case <-happens:
				return
			case <-late:
				t.Fatalf("no %s", what)
			case <-time.After(time.Millisecond):
			}
		}
	}
	// Two turns come while it runs.
	for range 2 {
		for !clk.HasWaiters() {
			select {
			case <-late:
				t.Fatal("no further turn is planned")
			case <-time.After(time.Millisecond):
			}
		}
		clk.Step(time.Second)
	}
	answer <- struct{}{}
	<-changed
	pass("second run", asked)
	close(answer)
}
