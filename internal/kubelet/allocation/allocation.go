// Package allocation keeps what a node has granted a pod apart from what the
// pod asks for, which differ while a pod is resized in place (KEP-1287,
// KEP-5419): cpu and memory of its containers, and of the pod as a whole.
package allocation

import (
	v1 "k8s.io/api/core/v1"
)

// Granted is what a pod was granted. It never changes.
type Granted struct {
	pod        *v1.ResourceRequirements
	containers map[string]v1.ResourceRequirements
}

// Asked returns a grant of all that pod asks for.
func Asked(pod *v1.Pod) *Granted {
	g := &Granted{pod: pod.Spec.Resources, containers: map[string]v1.ResourceRequirements{}}
	for _, list := range containers(pod) {
		for i := range list {
			g.containers[list[i].Name] = list[i].Resources
		}
	}
	return g
}

// Reported returns the grant that pod's status tells of, which a kubelet that
// ran before this one has made.
func Reported(pod *v1.Pod) *Granted {
	g := Asked(pod)
	if g.pod != nil {
		own := reported(*g.pod, pod.Status.AllocatedResources, pod.Status.Resources)
		g.pod = &own
	}
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			s := &list[i]
			if asked, known := g.containers[s.Name]; known {
				g.containers[s.Name] = reported(asked, s.AllocatedResources, s.Resources)
			}
		}
	}
	return g
}

// reported returns asked as a status tells of it, if it does.
func reported(asked v1.ResourceRequirements, allocated v1.ResourceList, has *v1.ResourceRequirements) v1.ResourceRequirements {
	if allocated == nil {
		return asked
	}
	asked.Requests = with(asked.Requests, allocated)
	if has != nil {
		asked.Limits = with(asked.Limits, has.Limits)
	}
	return asked
}

// Meets reports whether pod has been granted what it asks for.
func (g *Granted) Meets(pod *v1.Pod) bool {
	if !equalRequirements(g.pod, pod.Spec.Resources) {
		return false
	}
	for _, list := range containers(pod) {
		for i := range list {
			if granted, ok := g.containers[list[i].Name]; ok && !equalRequirements(&granted, &list[i].Resources) {
				return false
			}
		}
	}
	return true
}

// Apply returns pod as it was granted: pod itself, or a copy.
func (g *Granted) Apply(pod *v1.Pod) *v1.Pod {
	if g == nil || g.Meets(pod) {
		return pod
	}
	out := *pod
	out.Spec.Resources = g.pod
	out.Spec.Containers = g.apply(pod.Spec.Containers)
	out.Spec.InitContainers = g.apply(pod.Spec.InitContainers)
	return &out
}

func (g *Granted) apply(list []v1.Container) []v1.Container {
	out := make([]v1.Container, len(list))
	for i := range list {
		out[i] = list[i]
		if granted, ok := g.containers[list[i].Name]; ok {
			out[i].Resources = granted
		}
	}
	return out
}

func containers(pod *v1.Pod) [2][]v1.Container {
	return [2][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers}
}

// resized are the resources that can be changed in place.
func resized() [2]v1.ResourceName { return [2]v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} }

func equalRequirements(a, b *v1.ResourceRequirements) bool {
	if a == nil || b == nil {
		return a == b
	}
	return equal(a.Requests, b.Requests) && equal(a.Limits, b.Limits)
}

func equal(a, b v1.ResourceList) bool {
	for _, name := range resized() {
		x, has := a[name]
		y, also := b[name]
		if has != also || x.Cmp(y) != 0 {
			return false
		}
	}
	return true
}

// with returns a copy of list in which the resources that can be changed are
// those of values.
func with(list, values v1.ResourceList) v1.ResourceList {
	out := list.DeepCopy()
	for _, name := range resized() {
		q, ok := values[name]
		switch {
		case !ok:
			delete(out, name)
		case out == nil:
			out = v1.ResourceList{name: q}
		default:
			out[name] = q
		}
	}
	return out
}
