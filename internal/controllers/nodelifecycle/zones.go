package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// state is how a zone is, which decides on the rate of evictions in it (Nodes
// documentation, "Rate limits on eviction").
type state int

const (
	normal state = iota
	partialDisruption
	fullDisruption
)

const (
	// unhealthyShare of a zone's nodes not ready make it partially disrupted.
	unhealthyShare = 0.55
	// largeZone is the size up to which a partially disrupted zone evicts
	// nobody.
	largeZone = 50
)

// zones keeps count of the nodes' readiness in each zone.
type zones struct {
	interval, secondary time.Duration

	members map[string]member // by node
	byName  map[string]*zone
}

type member struct {
	zone  string
	ready bool
}

type zone struct {
	ready, notReady int
	// next is when the next node may be tainted.
	next time.Time
}

func newZones(interval, secondary time.Duration) *zones {
	return &zones{interval: interval, secondary: secondary, members: map[string]member{}, byName: map[string]*zone{}}
}

func (z *zone) state() state {
	switch {
	case z.ready == 0 && z.notReady > 0:
		return fullDisruption
	case z.notReady > 2 && float64(z.notReady) >= unhealthyShare*float64(z.ready+z.notReady):
		return partialDisruption
	}
	return normal
}

// zoneOf names the zone of a node; a zone's name is unique in its region only.
func zoneOf(n *corev1.Node) string {
	return n.Labels[corev1.LabelTopologyRegion] + "/" + n.Labels[corev1.LabelTopologyZone]
}

// set notes a node's zone and readiness. It returns the nodes to look at again
// because their zone's state changed.
func (z *zones) set(n *corev1.Node, ready bool) []string {
	next := member{zoneOf(n), ready}
	if z.members[n.Name] == next {
		return nil
	}
	return z.change(func() {
		z.count(n.Name, -1)
		z.members[n.Name] = next
		z.count(n.Name, 1)
	})
}

// remove forgets a node, and returns what set returns.
func (z *zones) remove(node string) []string {
	return z.change(func() {
		z.count(node, -1)
		delete(z.members, node)
	})
}

func (z *zones) count(node string, by int) {
	m, ok := z.members[node]
	if !ok {
		return
	}
	zn := z.byName[m.zone]
	if zn == nil {
		zn = &zone{}
		z.byName[m.zone] = zn
	}
	if m.ready {
		zn.ready += by
	} else {
		zn.notReady += by
	}
	if zn.ready+zn.notReady == 0 {
		delete(z.byName, m.zone)
	}
}

func (z *zones) change(f func()) []string {
	before, down := map[string]state{}, z.allDown()
	for name, zn := range z.byName {
		before[name] = zn.state()
	}
	f()
	var changed []string
	for name, m := range z.members {
		if old, ok := before[m.zone]; down != z.allDown() || !ok || old != z.byName[m.zone].state() {
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	return changed
}

// allDown reports whether every zone is fully disrupted: then it is more
// likely that this side is cut off than that all nodes died.
func (z *zones) allDown() bool {
	for _, zn := range z.byName {
		if zn.state() != fullDisruption {
			return false
		}
	}
	return len(z.byName) > 0
}

// judge decides on the NoExecute taint of a node that set was called with.
func (z *zones) judge(n *corev1.Node, now time.Time) (e eviction, wait time.Duration) {
	c := ready(n)
	if c == nil || c.Status == corev1.ConditionTrue || z.allDown() {
		return noEviction, 0
	}
	e, other := notReadyEviction, corev1.TaintNodeUnreachable
	key := corev1.TaintNodeNotReady
	if c.Status == corev1.ConditionUnknown {
		e, key, other = unreachableEviction, corev1.TaintNodeUnreachable, corev1.TaintNodeNotReady
	}
	for _, t := range n.Spec.Taints {
		// One taint may take the other's place at once: the pods are leaving.
		if t.Effect == corev1.TaintEffectNoExecute && (t.Key == key || t.Key == other) {
			return e, 0
		}
	}
	zn := z.byName[zoneOf(n)]
	interval := z.interval
	if zn.state() == partialDisruption {
		if zn.ready+zn.notReady <= largeZone {
			return keepEviction, 0
		}
		interval = z.secondary
	}
	if wait := zn.next.Sub(now); wait > 0 {
		return keepEviction, wait
	}
	zn.next = now.Add(interval)
	return e, 0
}
