package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func condition(n *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == kind {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

func ready(n *corev1.Node) *corev1.NodeCondition { return condition(n, corev1.NodeReady) }

// heartbeat changes with every sign of life in the node's status.
func heartbeat(n *corev1.Node) metav1.Time {
	if c := ready(n); c != nil {
		return c.LastHeartbeatTime
	}
	return metav1.Time{}
}

// setUnknown says of all that the kubelet reports that it is no longer known,
// and reports whether that is news.
func setUnknown(n *corev1.Node, now time.Time) bool {
	changed := false
	for _, kind := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		c := condition(n, kind)
		switch {
		case c == nil:
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown,
				Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
			changed = true
		case c.Status != corev1.ConditionUnknown:
			c.Status = corev1.ConditionUnknown
			c.Reason, c.Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
			changed = true
		}
	}
	return changed
}

// eviction is what a node's NoExecute taint should be.
type eviction int

const (
	keepEviction eviction = iota // as it is
	noEviction
	notReadyEviction
	unreachableEviction
)

// conditionTaints are the NoSchedule taints of conditions (Taints and
// Tolerations documentation, "Taint Nodes by Condition").
var conditionTaints = []struct {
	kind   corev1.NodeConditionType
	status corev1.ConditionStatus
	taint  string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
}

// taints returns the taints that the node should have: those of others as they
// are, and this controller's.
func taints(n *corev1.Node, e eviction, now time.Time) []corev1.Taint {
	wanted := map[string]bool{corev1.TaintNodeUnschedulable: n.Spec.Unschedulable}
	for _, t := range conditionTaints {
		c := condition(n, t.kind)
		wanted[t.taint] = c != nil && c.Status == t.status
	}
	execute := map[string]bool{corev1.TaintNodeNotReady: e == notReadyEviction, corev1.TaintNodeUnreachable: e == unreachableEviction}

	var next []corev1.Taint
	for _, t := range n.Spec.Taints {
		want, ours := wanted[t.Key]
		if t.Effect == corev1.TaintEffectNoExecute {
			want, ours = execute[t.Key]
			ours = ours && e != keepEviction
		} else if t.Effect != corev1.TaintEffectNoSchedule {
			ours = false
		}
		if !ours || want {
			next = append(next, t)
		}
	}
	add := func(key string, effect corev1.TaintEffect, want bool) {
		if want && !slices.ContainsFunc(next, func(t corev1.Taint) bool { return t.Key == key && t.Effect == effect }) {
			at := metav1.NewTime(now)
			next = append(next, corev1.Taint{Key: key, Effect: effect, TimeAdded: &at})
		}
	}
	for _, t := range conditionTaints {
		add(t.taint, corev1.TaintEffectNoSchedule, wanted[t.taint])
	}
	add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule, wanted[corev1.TaintNodeUnschedulable])
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		add(key, corev1.TaintEffectNoExecute, execute[key])
	}
	return next
}
