// Package eviction keeps a node from running out of memory, disk space, inodes
// and process numbers. While one of them is scarce the node says so in a
// condition, takes fewer pods, frees what no pod needs, and at last ends pods,
// one at a time, those first that use more than they asked for. Pods that use
// more disk space than they may are ended at all times.
package eviction

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
)

// Reason is that of evicted pods' status and events.
const Reason = "Evicted"

// Times of upstream's defaults (evictionPressureTransitionPeriod, and what its
// kubelet fixes).
const (
	interval   = 10 * time.Second
	transition = 5 * time.Minute
	// evictionTimeout is how long a pod may take to end before the node looks
	// for another one.
	evictionTimeout = 30 * time.Second
)

// Node is what the manager watches over.
type Node interface {
	// Measure looks at what there is and what is left.
	Measure() Observations
	// Active returns the pods that hold resources of the node.
	Active() []*v1.Pod
	// Usage returns what the pods use, by UID.
	Usage(ctx context.Context, pods []*v1.Pod) (map[types.UID]PodUsage, error)
	// Reclaim frees disk space that no pod needs.
	Reclaim(ctx context.Context) error
	// Evict ends a pod and returns when nothing of it is left, or with ctx.
	Evict(ctx context.Context, pod *v1.Pod, message string)
}

// Manager evicts pods.
type Manager struct {
	Thresholds []Threshold
	Node       Node
	// Reference names the node in events.
	Reference *v1.ObjectReference
	Recorder  record.EventRecorder
	Clock     clock.Clock
	Log       *slog.Logger
	// Changed is called when a condition has changed.
	Changed func()

	mu sync.Mutex
	// seen is when each condition was observed last; told are those that
	// Changed was called for.
	seen map[v1.NodeConditionType]time.Time
	told []v1.NodeConditionType
}

// Run watches over the node until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	for ctx.Err() == nil {
		m.enforce(ctx)
		if m.relieve(ctx) {
			// What has been gained shows at once.
			continue
		}
		select {
		case <-ctx.Done():
		case <-m.Clock.After(interval):
		}
	}
}

// Conditions returns the scarcities that there are, or were a short while ago:
// a node that went back and forth would be given pods again and again.
func (m *Manager) Conditions() []v1.NodeConditionType {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conditionsLocked(m.Clock.Now())
}

func (m *Manager) conditionsLocked(now time.Time) []v1.NodeConditionType {
	var out []v1.NodeConditionType
	for condition, at := range m.seen {
		if now.Sub(at) < transition {
			out = append(out, condition)
		}
	}
	slices.Sort(out)
	return out
}

// scarcity is a threshold that is not kept.
type scarcity struct {
	Threshold
	Observation
}

// look compares the node with the thresholds, notes the conditions and returns
// the scarcities in the order in which they are dealt with.
func (m *Manager) look() []scarcity {
	scarce := m.scarcities()
	now := m.Clock.Now()
	m.mu.Lock()
	before := m.told
	if m.seen == nil {
		m.seen = map[v1.NodeConditionType]time.Time{}
	}
	for _, s := range scarce {
		m.seen[s.Signal.condition()] = now
	}
	m.told = m.conditionsLocked(now)
	changed := !slices.Equal(before, m.told)
	m.mu.Unlock()
	if changed {
		m.Changed()
	}
	return scarce
}

func (m *Manager) scarcities() []scarcity {
	observed := m.Node.Measure()
	var out []scarcity
	for _, t := range m.Thresholds {
		o, ok := observed[t.Signal]
		if ok && o.Available < t.least(o.Capacity) {
			out = append(out, scarcity{t, o})
		}
	}
	slices.SortFunc(out, func(a, b scarcity) int {
		return slices.Index(order, a.Signal) - slices.Index(order, b.Signal)
	})
	return out
}

// relieve does one step against the first scarcity. It returns true when it has
// ended a pod.
func (m *Manager) relieve(ctx context.Context) bool {
	scarce := m.look()
	if len(scarce) == 0 {
		return false
	}
	s := scarce[0]
	m.Recorder.Eventf(m.Reference, v1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", s.Signal.resource())
	if s.Signal.condition() == v1.NodeDiskPressure {
		if err := m.Node.Reclaim(ctx); err != nil {
			m.Log.Warn("freeing disk space", "err", err)
		}
		if len(m.scarcities()) == 0 {
			return false
		}
	}
	pods := slices.DeleteFunc(m.Node.Active(), critical)
	usage, err := m.Node.Usage(ctx, pods)
	if err != nil {
		m.Log.Warn("measuring what pods use", "err", err)
	}
	if len(pods) == 0 || ctx.Err() != nil {
		return false
	}
	rank(pods, usage, s.Signal)
	text, annotations := explain(pods[0], s, usage[pods[0].UID])
	m.end(ctx, pods[0], text, annotations)
	return true
}

// end evicts a pod, for the reason that text gives.
func (m *Manager) end(ctx context.Context, pod *v1.Pod, text string, annotations map[string]string) {
	m.Log.Warn("evicting pod", "namespace", pod.Namespace, "pod", pod.Name, "why", text)
	m.Recorder.AnnotatedEventf(pod, annotations, v1.EventTypeWarning, Reason, "%s", text)
	ctx, cancel := context.WithTimeout(ctx, evictionTimeout)
	defer cancel()
	m.Node.Evict(ctx, pod, text)
}

// explain says why the pod has to go, as upstream does.
func explain(pod *v1.Pod, s scarcity, usage PodUsage) (text string, annotations map[string]string) {
	name := s.Signal.resource()
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %v. Threshold quantity: %v, available: %v. ",
		name, s.Signal.quantity(s.least(s.Capacity)), s.Signal.quantity(s.Available))
	var offenders, amounts []string
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		used, asked := usage.Containers[c.Name].of(s.Signal), c.Resources.Requests[name]
		if used <= asked.Value() {
			continue
		}
		amount := s.Signal.quantity(used).String()
		fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %v. ", c.Name, amount, asked.String(), name)
		offenders, amounts = append(offenders, c.Name), append(amounts, amount)
	}
	return b.String(), map[string]string{
		"offending_containers":       strings.Join(offenders, ","),
		"offending_containers_usage": strings.Join(amounts, ","),
		"starved_resource":           string(name),
	}
}
