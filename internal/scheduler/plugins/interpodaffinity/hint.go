package interpodaffinity

import (
	"maps"

	corev1 "k8s.io/api/core/v1"

	"skiff/internal/scheduler/framework"
)

// Cures reports whether pods came, went or changed that terms are about, or
// domains changed.
func (p *Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded:
		return p.about(pod, nil, e.Node)
	case framework.NodeChanged:
		return p.about(pod, e.OldNode, e.Node)
	case framework.NodeGone, framework.NamespaceChanged:
		// A node takes the pods on it out of all counts.
		return true
	case framework.PodPlaced:
		return p.matchesAll(pod.Affinity, e.Pod.Pod)
	case framework.PodChanged:
		return !p.matchesAll(pod.Affinity, e.OldPod.Pod) && p.matchesAll(pod.Affinity, e.Pod.Pod) ||
			p.matchesAny(pod.AntiAffinity, e.OldPod.Pod) && !p.matchesAny(pod.AntiAffinity, e.Pod.Pod) || p.leaves(pod, e.OldPod)
	case framework.PodGone:
		return p.matchesAny(pod.AntiAffinity, e.OldPod.Pod) || p.matchesAny(e.OldPod.AntiAffinity, pod.Pod) || p.leaves(pod, e.OldPod)
	}
	return false
}

// leaves reports whether old may have been the last pod of a group: the first
// one of a new group can begin anywhere.
func (p *Plugin) leaves(pod, old *framework.PodInfo) bool {
	return p.matchesAll(pod.Affinity, old.Pod) && p.matchesAll(pod.Affinity, pod.Pod)
}

func (p *Plugin) matchesAny(terms []framework.Term, pod *corev1.Pod) bool {
	for i := range terms {
		if terms[i].Matches(pod, p.Namespace) {
			return true
		}
	}
	return false
}

// about reports whether a new node may take the pod, or a changed one may do
// so now, by its domains.
func (p *Plugin) about(pod *framework.PodInfo, old, now *corev1.Node) bool {
	if old != nil {
		return !maps.Equal(old.Labels, now.Labels)
	}
	for i := range pod.Affinity {
		if _, ok := now.Labels[pod.Affinity[i].TopologyKey]; !ok {
			return false
		}
	}
	return true
}
