package plan

import (
	v1 "k8s.io/api/core/v1"

	"skiff/internal/kubelet/runtime"
)

// Waves returns the containers that run, in the order in which a pod that ends
// stops them: everything but sidecars first, together, then one sidecar after
// the other in reverse order of the spec (KEP-753). Each wave begins when the
// one before it has stopped; the pod's grace period runs over all of them.
func Waves(pod *v1.Pod, state *runtime.Pod) [][]*runtime.Container {
	alive := state.Alive()
	sidecars := map[string]int{}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; IsSidecar(c) {
			sidecars[c.Name] = i
		}
	}
	var first []*runtime.Container
	ordered := make([][]*runtime.Container, len(pod.Spec.InitContainers))
	for _, c := range alive {
		if i, ok := sidecars[c.Name]; ok {
			ordered[i] = append(ordered[i], c)
			continue
		}
		first = append(first, c)
	}
	var waves [][]*runtime.Container
	if len(first) > 0 {
		waves = append(waves, first)
	}
	for i := len(ordered) - 1; i >= 0; i-- {
		if len(ordered[i]) > 0 {
			waves = append(waves, ordered[i])
		}
	}
	return waves
}
