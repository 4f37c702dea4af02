// Package interpodaffinity puts pods near to or far from other pods, as their
// affinity and anti-affinity ask.
package interpodaffinity

import (
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
	// HardWeight is what a required term of another pod's affinity counts for
	// in scores.
	HardWeight int64
	// IgnorePreferredTermsOfExistingPods leaves what other pods prefer out of
	// the scores of pods that prefer nothing themselves.
	IgnorePreferredTermsOfExistingPods bool
}

// Name returns the plugin's name.
func (*Plugin) Name() string { return name }

// PreFilter makes the rule for pod. There is always one: pods that say nothing
// about others may not be wanted by others.
func (p *Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	f := &filter{
		Plugin: p, pod: pod,
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
	existing counters
	// first is set if the pod matches its own terms of affinity: as the first
	// of its group it may go anywhere.
	first                       bool
	notNear, tooNear, notWanted *framework.Status
}

func (f *filter) Observe(n *framework.NodeInfo) (regroup bool) {
	if len(f.near) > 0 {
		var count int64
		for _, o := range n.Pods {
			if f.matchesAll(f.pod.Affinity, o.Pod) {
				count++
			}
		}
		for _, c := range f.near {
			regroup = c.Set(n, true, count) || regroup
		}
	}
	for i, c := range f.far {
		var count int64
		for _, o := range n.Pods {
			if f.pod.AntiAffinity[i].Matches(o.Pod, f.Namespace) {
				count++
			}
		}
		regroup = c.Set(n, true, count) || regroup
	}
	f.existing.begin(n)
	for _, o := range n.WithTerms {
		for i := range o.AntiAffinity {
			if t := &o.AntiAffinity[i]; t.Matches(f.pod.Pod, f.Namespace) {
				f.existing.add(t.TopologyKey, 1)
			}
		}
	}
	return f.existing.end(n) || regroup
}

// Group is by the domains of the node.
func (f *filter) Group(n *framework.NodeInfo, keys []uint64) []uint64 {
	for _, c := range f.near {
		keys = append(keys, c.Group(n.Row))
	}
	for _, c := range f.far {
		keys = append(keys, c.Group(n.Row))
	}
	return f.existing.group(n, keys)
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
	for _, c := range f.existing.all {
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
