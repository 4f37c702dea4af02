package podtopologyspread

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"skiff/internal/scheduler/framework"
)

// PreFilter makes the rule for pod.
func (p *Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	hard, _ := p.constraints(pod.Pod, corev1.DoNotSchedule)
	if len(hard) == 0 {
		return nil, nil
	}
	f := &filter{
		observer: observer{pod: pod.Pod, affinity: nodeaffinity.GetRequiredNodeAffinity(pod.Pod), constraints: hard, requireAll: true},
		skewed:   framework.NewStatus(framework.Unschedulable, name, "node(s) didn't match pod topology spread constraints"),
		noLabel:  framework.NewStatus(framework.Unresolvable, name, "node(s) didn't match pod topology spread constraints (missing required label)"),
	}
	for _, c := range hard {
		var self int64
		if c.selector.Matches(labels.Set(pod.Labels)) {
			self = 1
		}
		f.self = append(f.self, self)
	}
	return f, nil
}

type filter struct {
	observer
	// self is, by constraint, 1 if the pod itself will count.
	self            []int64
	skewed, noLabel *framework.Status
}

// Group is by the domains of the node.
func (f *filter) Group(n *framework.NodeInfo, keys []uint64) []uint64 {
	for _, c := range f.constraints {
		keys = append(keys, c.Group(n.Row))
	}
	return keys
}

func (f *filter) Filter(n *framework.NodeInfo) *framework.Status {
	for i, c := range f.constraints {
		sum, ok := c.Sum(n.Row)
		if !ok {
			return f.noLabel
		}
		least, domains := c.Least()
		if domains < c.minDomains {
			least = 0
		}
		if sum+f.self[i]-least > c.maxSkew {
			return f.skewed
		}
	}
	return nil
}

// Cures reports whether the counts or the domains may have changed.
func (p *Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	if e.Kind >= framework.NamespaceChanged {
		return false
	}
	hard, _ := p.constraints(pod.Pod, corev1.DoNotSchedule)
	counts := func(o *framework.PodInfo) bool {
		return o.Namespace == pod.Namespace && slices.ContainsFunc(hard, func(c *constraint) bool {
			return c.selector.Matches(labels.Set(o.Labels))
		})
	}
	switch e.Kind {
	case framework.NodeAdded, framework.NodeGone:
		return spread(hard, e.Node)
	case framework.NodeChanged:
		return (spread(hard, e.OldNode) || spread(hard, e.Node)) &&
			(!maps.Equal(e.OldNode.Labels, e.Node.Labels) || !slices.Equal(e.OldNode.Spec.Taints, e.Node.Spec.Taints))
	case framework.PodPlaced:
		return counts(e.Pod)
	case framework.PodGone:
		return counts(e.OldPod)
	case framework.PodChanged:
		return counts(e.Pod) || counts(e.OldPod)
	}
	return false
}

// spread reports whether the node has the labels of all constraints.
func spread(constraints []*constraint, node *corev1.Node) bool {
	return !slices.ContainsFunc(constraints, func(c *constraint) bool {
		_, ok := node.Labels[c.Key()]
		return !ok
	})
}
