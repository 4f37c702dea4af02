// Package antiaffinity lets pods keep others away from their node and from
// nothing larger (LimitPodHardAntiAffinityTopology).
package antiaffinity

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Validator.
type Plugin struct{}

// Validate implements admission.Validator.
func (Plugin) Validate(_ context.Context, a *admission.Attributes) error {
	if !a.Is("", "pods", "") || a.Operation != admission.Create && a.Operation != admission.Update {
		return nil
	}
	affinity := a.Object.(*corev1.Pod).Spec.Affinity
	if affinity == nil || affinity.PodAntiAffinity == nil {
		return nil
	}
	for _, term := range affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
		if term.TopologyKey != corev1.LabelHostname {
			return a.Forbidden("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey %v but only key %v is allowed", term.TopologyKey, corev1.LabelHostname)
		}
	}
	return nil
}
