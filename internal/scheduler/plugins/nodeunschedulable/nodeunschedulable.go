// Package nodeunschedulable keeps pods off cordoned nodes.
package nodeunschedulable

import (
	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"skiff/internal/scheduler/framework"
)

const name = "NodeUnschedulable"

// Plugin keeps pods off cordoned nodes, unless they tolerate the taint that
// cordoning brings.
type Plugin struct{}

// Name returns the plugin's name.
func (Plugin) Name() string { return name }

// PreFilter makes the rule for pod.
func (Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if corev1helpers.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, &taint, true) {
		return nil, nil
	}
	return &rule{framework.NewStatus(framework.Unresolvable, name, "node(s) were unschedulable")}, nil
}

type rule struct{ cordoned *framework.Status }

func (r *rule) Filter(n *framework.NodeInfo) *framework.Status {
	if n.Node.Spec.Unschedulable {
		return r.cordoned
	}
	return nil
}

// Cures reports whether a node may have become schedulable.
func (Plugin) Cures(_ *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded:
		return !e.Node.Spec.Unschedulable
	case framework.NodeChanged:
		return e.OldNode.Spec.Unschedulable && !e.Node.Spec.Unschedulable
	}
	return false
}
