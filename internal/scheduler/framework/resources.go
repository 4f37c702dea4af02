package framework

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Pods that request nothing count as this much when nodes are scored, so that
// they do not all go to one node (upstream's schedutil defaults).
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// Resources are amounts: CPU in thousandths, everything else in units or bytes.
type Resources struct {
	MilliCPU, Memory, EphemeralStorage int64
	// Pods is the number of pods.
	Pods int64
	// Scalar is all others: extended resources, huge pages, attachable volumes.
	Scalar map[corev1.ResourceName]int64
}

func resourcesOf(list corev1.ResourceList) Resources {
	var r Resources
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.EphemeralStorage = q.Value()
		case corev1.ResourcePods:
			r.Pods = q.Value()
		default:
			if r.Scalar == nil {
				r.Scalar = make(map[corev1.ResourceName]int64)
			}
			r.Scalar[name] = q.Value()
		}
	}
	return r
}

// Get returns the amount of the named resource.
func (r *Resources) Get(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.MilliCPU
	case corev1.ResourceMemory:
		return r.Memory
	case corev1.ResourceEphemeralStorage:
		return r.EphemeralStorage
	case corev1.ResourcePods:
		return r.Pods
	}
	return r.Scalar[name]
}

// add adds n times o.
func (r *Resources) add(o *Resources, n int64) {
	r.MilliCPU += n * o.MilliCPU
	r.Memory += n * o.Memory
	r.EphemeralStorage += n * o.EphemeralStorage
	r.Pods += n * o.Pods
	for name, v := range o.Scalar {
		if r.Scalar == nil {
			r.Scalar = make(map[corev1.ResourceName]int64)
		}
		r.Scalar[name] += n * v
	}
}

// Equal reports whether r and o are the same amounts.
func (r *Resources) Equal(o *Resources) bool {
	return r.MilliCPU == o.MilliCPU && r.Memory == o.Memory && r.EphemeralStorage == o.EphemeralStorage &&
		r.Pods == o.Pods && maps.Equal(r.Scalar, o.Scalar)
}

// requests returns what the pod is accounted with, and the same with the
// defaults for containers that request no CPU or memory. Running pods count
// with what they really have while a resize is under way (KEP-1287).
func requests(pod *corev1.Pod) (exact, nonZero Resources) {
	opts := resourcehelper.PodResourcesOptions{
		UseStatusResources: pod.Spec.NodeName != "",
		InPlacePodLevelResourcesVerticalScalingEnabled: true,
	}
	exact = resourcesOf(resourcehelper.PodRequests(pod, opts))
	exact.Pods = 1
	missing := corev1.ResourceList{}
	if exact.MilliCPU == 0 || lacks(pod, corev1.ResourceCPU) {
		missing[corev1.ResourceCPU] = *resource.NewMilliQuantity(defaultMilliCPU, resource.DecimalSI)
	}
	if exact.Memory == 0 || lacks(pod, corev1.ResourceMemory) {
		missing[corev1.ResourceMemory] = *resource.NewQuantity(defaultMemory, resource.BinarySI)
	}
	if len(missing) == 0 {
		return exact, exact
	}
	opts.NonMissingContainerRequests = missing
	nonZero = resourcesOf(resourcehelper.PodRequests(pod, opts))
	nonZero.Pods = 1
	return exact, nonZero
}

func lacks(pod *corev1.Pod, name corev1.ResourceName) bool {
	for i := range pod.Spec.Containers {
		if _, ok := pod.Spec.Containers[i].Resources.Requests[name]; !ok {
			return true
		}
	}
	for i := range pod.Spec.InitContainers {
		if _, ok := pod.Spec.InitContainers[i].Resources.Requests[name]; !ok {
			return true
		}
	}
	return false
}
