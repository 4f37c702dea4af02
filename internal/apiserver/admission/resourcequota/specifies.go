package resourcequota

import (
	"errors"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// specifies returns an error unless each container asks for a share of what is
// limited, since otherwise it might use any.
func specifies(pod *corev1.Pod, hard corev1.ResourceList) error {
	missing := map[string][]string{}
	for name := range hard {
		var from func(c *corev1.Container) corev1.ResourceList
		base := name
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory:
			base = corev1.ResourceName(strings.TrimPrefix(string(name), "requests."))
			from = func(c *corev1.Container) corev1.ResourceList { return c.Resources.Requests }
		case corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory:
			base = corev1.ResourceName(strings.TrimPrefix(string(name), "limits."))
			from = func(c *corev1.Container) corev1.ResourceList { return c.Resources.Limits }
		default:
			continue
		}
		if podLevel(pod, name, base) {
			continue
		}
		for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range containers {
				if _, ok := from(&containers[i])[base]; !ok {
					missing[string(name)] = append(missing[string(name)], containers[i].Name)
				}
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		slices.Sort(missing[name])
		parts = append(parts, name+" for: "+strings.Join(missing[name], ","))
	}
	return errors.New("must specify " + strings.Join(parts, "; "))
}

// podLevel reports whether the pod as a whole asks for the resource (KEP-2837).
func podLevel(pod *corev1.Pod, name, base corev1.ResourceName) bool {
	if pod.Spec.Resources == nil {
		return false
	}
	list := pod.Spec.Resources.Requests
	if strings.HasPrefix(string(name), "limits.") {
		list = pod.Spec.Resources.Limits
	}
	_, ok := list[base]
	return ok
}
