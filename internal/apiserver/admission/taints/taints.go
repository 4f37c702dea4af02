// Package taints marks new nodes as not ready, so that no pod lands on one
// before its conditions are known (TaintNodesByCondition).
package taints

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Mutator.
type Plugin struct{}

// Mutate implements admission.Mutator.
func (Plugin) Mutate(_ context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Create || !a.Is("", "nodes", "") {
		return nil
	}
	node := a.Object.(*corev1.Node)
	notReady := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&notReady) }) {
		node.Spec.Taints = append(node.Spec.Taints, notReady)
	}
	return nil
}
