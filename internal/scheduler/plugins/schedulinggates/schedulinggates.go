// Package schedulinggates keeps pods from being scheduled while they have
// scheduling gates (KEP-3521).
package schedulinggates

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"skiff/internal/scheduler/framework"
)

const name = "SchedulingGates"

// Plugin holds gated pods back.
type Plugin struct{}

// Name returns the plugin's name.
func (Plugin) Name() string { return name }

// PreEnqueue returns why pod must wait.
func (Plugin) PreEnqueue(pod *corev1.Pod) *framework.Status {
	if len(pod.Spec.SchedulingGates) == 0 {
		return nil
	}
	gates := make([]string, 0, len(pod.Spec.SchedulingGates))
	for _, g := range pod.Spec.SchedulingGates {
		gates = append(gates, g.Name)
	}
	return framework.NewStatus(framework.Unresolvable, name, fmt.Sprintf("waiting for scheduling gates: %v", gates))
}
