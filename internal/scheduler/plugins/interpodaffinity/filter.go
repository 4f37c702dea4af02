// Package interpodaffinity puts pods near to or far from other pods, as their
// affinity and anti-affinity ask.
package interpodaffinity

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/topology"
)

const name = "InterPodAffinity"

// Plugin is the filter and the score.
type Plugin struct {
	// Namespace returns the labels of a namespace.
	Namespace func(name string) labels.Set
}

// Name returns the plugin's name.
func (*Plugin) Name() string { return name }

// PreFilter makes the rule for pod. There is always one: pods that say nothing
// about others may not be wanted by others.
func (p *Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	f := &filter{
		Plugin: p, pod: pod, existing: newCounters(),
		notNear:   framework.NewStatus(framework.Unresolvable, name, "node(s) didn't match pod affinity rules"),
		tooNear:   framework.NewStatus(framework.Unschedulable, name, "node(s) didn't match pod anti-affinity rules"),
		notWanted: framework.NewStatus(framework.Unschedulable, name, "node(s) didn't satisfy existing pods anti-affinity rules"),
	}
	for i := range pod.Affinity {
		f.near = append(f.near, topology.NewCounter(pod.Affinity[i].TopologyKey))
	}
	for i := range pod.AntiAffinity {
		f.far = append(f.far, topology.NewCounter(pod.AntiAffinity[i].TopologyKey))
	}
	f.first = p.matchesAll(pod.Affinity, pod.Pod)
	return f, nil
}

func (p *Plugin) matchesAll(terms []framework.Term, pod *corev1.Pod) bool {
	for i := range terms {
		if !terms[i].Matches(pod, p.Namespace) {
			return false
		}
	}
	return len(terms) > 0
}

type filter struct {
	*Plugin
	pod *framework.PodInfo
	// near counts, by term, the pods that match all terms of affinity; far
	// those that match the term of anti-affinity.
	near, far []*topology.Counter
	// existing counts, by topology key, the terms of other pods' anti-affinity
	// that are about the pod.
	existing *counters
	// first is set if the pod matches its own terms of affinity: as the first
	// of its group it may go anywhere.
	first                       bool
	notNear, tooNear, notWanted *framework.Status
}

func (f *filter) Observe(n *framework.NodeInfo) (others bool) {
	if len(f.near) > 0 {
		total := f.near[0].Total()
		var count int64
		for _, o := range n.Pods {
			if f.matchesAll(f.pod.Affinity, o.Pod) {
				count++
			}
		}
		for _, c := range f.near {
			others = c.Set(n, true, count) || others
		}
		// The first of a group is treated unlike the rest.
		others = others || (total == 0) != (f.near[0].Total() == 0)
	}
	for i, c := range f.far {
		var count int64
		for _, o := range n.Pods {
			if f.pod.AntiAffinity[i].Matches(o.Pod, f.Namespace) {
				count++
			}
		}
		others = c.Set(n, true, count) || others
	}
	byKey := map[string]int64{}
	for _, o := range n.WithTerms {
		for i := range o.AntiAffinity {
			if t := &o.AntiAffinity[i]; t.Matches(f.pod.Pod, f.Namespace) {
				byKey[t.TopologyKey]++
			}
		}
	}
	return f.existing.observe(n, byKey) || others
}

func (f *filter) Filter(n *framework.NodeInfo) *framework.Status {
	if !f.nearEnough(n) {
		return f.notNear
	}
	for _, c := range f.far {
		if sum, ok := c.Sum(n.Row); ok && sum > 0 {
			return f.tooNear
		}
	}
	for _, c := range f.existing.byKey {
		if sum, ok := c.Sum(n.Row); ok && sum > 0 {
			return f.notWanted
		}
	}
	return nil
}

func (f *filter) nearEnough(n *framework.NodeInfo) bool {
	found, anywhere := true, false
	for _, c := range f.near {
		sum, ok := c.Sum(n.Row)
		if !ok {
			return false
		}
		found = found && sum > 0
		anywhere = anywhere || c.Total() > 0
	}
	return found || !anywhere && f.first
}

// Cures reports whether pods came, went or changed that terms may be about, or
// domains changed.
func (p *Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded, framework.NamespaceChanged:
		return true
	case framework.NodeChanged:
		return !maps.Equal(e.OldNode.Labels, e.Node.Labels)
	case framework.PodPlaced:
		return p.matchesAll(pod.Affinity, e.Pod.Pod)
	case framework.PodChanged:
		return true
	case framework.PodGone:
		return len(e.OldPod.AntiAffinity) > 0 || len(pod.AntiAffinity) > 0 || p.matchesAll(pod.Affinity, pod.Pod)
	}
	return false
}
