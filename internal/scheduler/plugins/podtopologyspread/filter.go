package podtopologyspread

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"skiff/internal/scheduler/framework"
)

// PreFilter makes the rule for pod.
func (*Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	hard := constraints(pod.Pod, corev1.DoNotSchedule)
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
func (*Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded:
		return true
	case framework.NodeChanged:
		return !maps.Equal(e.OldNode.Labels, e.Node.Labels) || len(e.OldNode.Spec.Taints) != len(e.Node.Spec.Taints)
	case framework.PodPlaced, framework.PodChanged, framework.PodGone:
		return e.Namespace == pod.Namespace
	}
	return false
}
