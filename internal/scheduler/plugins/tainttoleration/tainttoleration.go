// Package tainttoleration keeps pods off nodes with taints they do not
// tolerate, and prefers nodes with fewer of those that only ask to be avoided.
package tainttoleration

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"skiff/internal/scheduler/framework"
)

const name = "TaintToleration"

// Plugin is the filter and the score.
type Plugin struct{}

// Name returns the plugin's name.
func (Plugin) Name() string { return name }

// PreFilter makes the rule for pod.
func (Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	return &filter{pod.Spec.Tolerations, framework.NewStatus(framework.Unresolvable, name, "node(s) had untolerated taint(s)")}, nil
}

type filter struct {
	tolerations []corev1.Toleration
	untolerated *framework.Status
}

func (f *filter) Filter(n *framework.NodeInfo) *framework.Status {
	if !Tolerates(f.tolerations, n.Node) {
		return f.untolerated
	}
	return nil
}

// Tolerates reports whether pods with these tolerations may be put on node.
func Tolerates(tolerations []corev1.Toleration, node *corev1.Node) bool {
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect != corev1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(klog.Logger{}, tolerations, t, true) {
			return false
		}
	}
	return true
}

// PreScore makes the rule for pod.
func (Plugin) PreScore(pod *framework.PodInfo) framework.Scorer {
	s := &scorer{}
	for _, t := range pod.Spec.Tolerations {
		if t.Effect == "" || t.Effect == corev1.TaintEffectPreferNoSchedule {
			s.tolerations = append(s.tolerations, t)
		}
	}
	return s
}

type scorer struct{ tolerations []corev1.Toleration }

func (s *scorer) Score(n *framework.NodeInfo) int64 {
	var count int64
	for i := range n.Node.Spec.Taints {
		t := &n.Node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(klog.Logger{}, s.tolerations, t, true) {
			count++
		}
	}
	return count
}

func (s *scorer) Normalize(score, _, max int64) int64 {
	if max == 0 {
		return framework.MaxScore
	}
	return framework.MaxScore - framework.MaxScore*score/max
}

// Cures reports whether pod tolerates a node that it did not know or not
// tolerate before.
func (Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded:
		return Tolerates(pod.Spec.Tolerations, e.Node)
	case framework.NodeChanged:
		return !slices.Equal(e.OldNode.Spec.Taints, e.Node.Spec.Taints) &&
			!Tolerates(pod.Spec.Tolerations, e.OldNode) && Tolerates(pod.Spec.Tolerations, e.Node)
	}
	return false
}
