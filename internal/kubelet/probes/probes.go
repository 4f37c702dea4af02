// Package probes runs the startup, readiness and liveness probes of a node's
// containers. All wait on one timer; a goroutine exists only while a probe
// runs.
package probes

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"skiff/internal/kubelet/handlers"
	"skiff/internal/kubelet/timers"
)

// Target is a container that runs and is to be probed.
type Target struct {
	Pod         *v1.Pod
	Container   *v1.Container
	ContainerID string
	StartedAt   time.Time
	PodIP       string
	// Reference is the container for events.
	Reference *v1.ObjectReference
	// Stopping is true while the pod ends: only readiness is still of interest.
	Stopping bool
}

// Manager runs probes.
type Manager struct {
	runner   *handlers.Runner
	recorder record.EventRecorder
	clock    clock.Clock
	log      *slog.Logger
	changed  func(podUID string)
	queue    *timers.Queue[key]
	ctx      context.Context

	mu     sync.Mutex
	probes map[key]*probe
	pods   map[string]map[key]bool
}

type key struct {
	containerID string
	kind        Kind
}

type probe struct {
	target  Target
	spec    *v1.Probe
	run     run
	running bool
}

// New returns a manager; changed is called with each pod of which a probe's
// result changed. Probes run until ctx ends.
func New(ctx context.Context, runner *handlers.Runner, recorder record.EventRecorder, clk clock.Clock, log *slog.Logger, changed func(podUID string)) *Manager {
	m := &Manager{
		runner: runner, recorder: recorder, clock: clk, log: log, changed: changed, ctx: ctx,
		probes: map[key]*probe{}, pods: map[string]map[key]bool{},
	}
	m.queue = timers.New(clk, m.due)
	return m
}

// Run drives the timer until ctx ends.
func (m *Manager) Run(ctx context.Context) { m.queue.Run(ctx) }

// SetPod says which containers of a pod run; probes of others end.
func (m *Manager) SetPod(uid string, targets []Target) {
	now := m.clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := map[key]bool{}
	for _, t := range targets {
		for _, kind := range []Kind{Startup, Readiness, Liveness} {
			spec := kind.spec(t.Container)
			if spec == nil {
				continue
			}
			k := key{t.ContainerID, kind}
			wanted[k] = true
			if p := m.probes[k]; p != nil {
				p.target = t
				continue
			}
			m.probes[k] = &probe{target: t, spec: spec, run: run{result: kind.initial()}}
			m.queue.Set(k, firstRun(spec, t.StartedAt, now))
		}
	}
	for k := range m.pods[uid] {
		if !wanted[k] {
			delete(m.probes, k)
			m.queue.Cancel(k)
		}
	}
	if len(wanted) == 0 {
		delete(m.pods, uid)
		return
	}
	m.pods[uid] = wanted
}

// Result returns what a probe of a container says; Success where there is no
// such probe.
func (m *Manager) Result(c *v1.Container, containerID string, kind Kind) Result {
	if kind.spec(c) == nil {
		return Success
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.probes[key{containerID, kind}]; p != nil {
		return p.run.result
	}
	return kind.initial()
}

// due starts a probe whose time has come. Readiness and liveness wait for the
// startup probe.
func (m *Manager) due(k key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.probes[k]
	if p == nil || p.target.Stopping && k.kind != Readiness {
		return
	}
	m.queue.Set(k, m.clock.Now().Add(period(p.spec)))
	if p.running {
		// It takes longer than its period: this turn is left out.
		return
	}
	if k.kind != Startup {
		if s := m.probes[key{k.containerID, Startup}]; s != nil && s.run.result != Success {
			return
		}
	} else if p.run.result == Success {
		m.queue.Cancel(k)
		return
	}
	if k.kind != Readiness && p.run.result == Failure {
		// The container is about to be killed; more failures say nothing new.
		return
	}
	p.running = true
	go m.probe(k, p)
}

func (m *Manager) probe(k key, p *probe) {
	m.mu.Lock()
	target := p.target
	m.mu.Unlock()
	ok, output, err := m.execute(target, p.spec)
	if err != nil {
		// What could not be run says nothing about the container.
		m.log.Debug("probe could not run", "kind", k.kind.String(), "container", target.Container.Name, "err", err)
		m.recorder.Event(target.Reference, v1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe errored: %v", k.kind, err))
	} else if !ok {
		m.recorder.Event(target.Reference, v1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %s", k.kind, output))
	}
	m.mu.Lock()
	p.running = false
	current := m.probes[k] == p
	changed := current && err == nil && p.run.add(p.spec, ok)
	if changed && k.kind == Startup && ok {
		// The probes that waited for this one run at once.
		for _, kind := range []Kind{Readiness, Liveness} {
			if waiting := m.probes[key{k.containerID, kind}]; waiting != nil {
				m.queue.Set(key{k.containerID, kind}, firstRun(waiting.spec, target.StartedAt, m.clock.Now()))
			}
		}
	}
	m.mu.Unlock()
	if changed {
		m.changed(string(target.Pod.UID))
	}
}

func (m *Manager) execute(t Target, p *v1.Probe) (ok bool, output string, err error) {
	switch {
	case p.Exec != nil:
		return m.runner.Exec(m.ctx, t.ContainerID, p.Exec.Command, timeout(p))
	case p.HTTPGet != nil:
		return m.runner.HTTPGet(m.ctx, p.HTTPGet, t.Container, t.PodIP, timeout(p))
	case p.TCPSocket != nil:
		return m.runner.TCP(m.ctx, p.TCPSocket, t.Container, t.PodIP, timeout(p))
	case p.GRPC != nil:
		return m.runner.GRPC(m.ctx, p.GRPC, t.PodIP, timeout(p))
	}
	return false, "", fmt.Errorf("probe of container %s names no action", t.Container.Name)
}

// Started reports whether a running container has passed its startup probe, or
// has none.
func (m *Manager) Started(c *v1.Container, containerID string) bool {
	return m.Result(c, containerID, Startup) == Success
}

// Ready reports whether a running container passes its readiness probe, or has
// none.
func (m *Manager) Ready(c *v1.Container, containerID string) bool {
	return m.Result(c, containerID, Readiness) == Success
}
