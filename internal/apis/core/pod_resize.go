package core

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
)

// podResize changes the cpu and memory of a pod in place (KEP-1287, KEP-5419).
func podResize() apis.Subresource {
	return apis.Subresource{
		Name:  "resize",
		New:   newPod,
		Verbs: []string{"get", "patch", "update"},
		Prepare: func(_ context.Context, obj, old apis.Object) {
			keepResources(obj.(*corev1.Pod), old.(*corev1.Pod))
		},
		Validate: func(_ context.Context, obj, old apis.Object) field.ErrorList {
			return validatePodResize(obj.(*corev1.Pod), old.(*corev1.Pod))
		},
	}
}

// keepResources takes back from a pod all but what a resize may change. Other
// containers than there were stay, for validation to refuse.
func keepResources(pod, old *corev1.Pod) {
	wanted := pod.Spec
	if len(wanted.Containers) != len(old.Spec.Containers) || len(wanted.InitContainers) != len(old.Spec.InitContainers) {
		return
	}
	resized := func(wanted, old []corev1.Container) []corev1.Container {
		out := slices.Clone(old)
		for i := range out {
			if out[i].Name != wanted[i].Name {
				return wanted
			}
			out[i].Resources, out[i].ResizePolicy = wanted[i].Resources, wanted[i].ResizePolicy
		}
		return out
	}
	takeBack(pod, old)
	pod.Spec.Resources = wanted.Resources
	pod.Spec.InitContainers = resized(wanted.InitContainers, old.Spec.InitContainers)
	pod.Spec.Containers = resized(wanted.Containers, old.Spec.Containers)
}

// takeBack makes a pod what it was, but for whose its fields are.
func takeBack(pod, old *corev1.Pod) {
	pod.Spec, pod.Status = old.Spec, old.Status
	metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &old.ObjectMeta)
}

func validatePodResize(pod, old *corev1.Pod) field.ErrorList {
	whole := func(detail string) field.ErrorList {
		return field.ErrorList{field.Forbidden(field.NewPath(""), detail)}
	}
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return whole("static pods cannot be resized")
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return whole("windows pods cannot be resized")
	}
	p := problems(contentOfUpdate(pod, old))
	at := field.NewPath("spec")
	if podQOS(pod) != podQOS(old) {
		p.invalid(at, pod.Status.QOSClass, "Pod QOS Class may not change as a result of resizing")
	}
	running := slices.IndexFunc(old.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
	if running >= 0 && old.Status.ContainerStatuses[running].Resources == nil {
		p.forbidden(at, "Pod running on node without support for resize")
	}
	p.resizedPod(at, pod.Spec.Resources, old.Spec.Resources)
	inOrder := p.inOrder(at, "containers", pod.Spec.Containers, old.Spec.Containers)
	if !p.inOrder(at, "initContainers", pod.Spec.InitContainers, old.Spec.InitContainers) || !inOrder {
		return p.list()
	}
	for i := range old.Spec.InitContainers {
		p.kept(at.Child("initContainers").Index(i).Child("resources"), "resource", &pod.Spec.InitContainers[i].Resources, &old.Spec.InitContainers[i].Resources)
	}
	for i := range old.Spec.Containers {
		p.kept(at.Child("containers").Index(i).Child("resources"), "resource", &pod.Spec.Containers[i].Resources, &old.Spec.Containers[i].Resources)
	}
	for i := range old.Spec.Containers {
		if !onlyResized(&pod.Spec.Containers[i], &old.Spec.Containers[i]) {
			p.forbidden(at, "only cpu and memory resources are mutable")
		}
	}
	for i := range old.Spec.InitContainers {
		now, was, at := &pod.Spec.InitContainers[i], &old.Spec.InitContainers[i], at.Child("initContainers").Index(i)
		if !onlyResized(now, was) {
			p.forbidden(at, "only cpu and memory resources for init or sidecar containers are mutable")
		}
		if isSidecar(now) || apiequality.Semantic.DeepEqual(now, was) {
			continue
		}
		for _, policy := range now.ResizePolicy {
			if policy.RestartPolicy == corev1.RestartContainer {
				p.forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized")
			}
		}
	}
	return p.list()
}

// resizedPod checks a change of the pod's own resources.
func (p *problems) resizedPod(at *field.Path, now, old *corev1.ResourceRequirements) {
	if old != nil && now == nil {
		p.forbidden(at.Child("resources"), "pod-level resources cannot be removed")
		return
	}
	empty := &corev1.ResourceRequirements{}
	if now == nil {
		now = empty
	}
	if old == nil {
		old = empty
	}
	p.kept(at.Child("resources"), "pod-level resource", now, old)
	if !apiequality.Semantic.DeepEqual(fixed(now), fixed(old)) {
		p.forbidden(at, "only cpu and memory resources are mutable at pod-level")
	}
}

// inOrder checks that the containers are the same ones in the same order.
func (p *problems) inOrder(at *field.Path, list string, now, old []corev1.Container) bool {
	at = at.Child(list)
	if len(now) != len(old) {
		p.forbidden(at, list+" may not be added or removed on resize")
		return false
	}
	ok := true
	for i := range old {
		if now[i].Name != old[i].Name {
			p.forbidden(at.Index(i).Child("name"), list+" may not be renamed or reordered on resize")
			ok = false
		}
	}
	return ok
}

// kept checks that nothing that was asked for is no longer.
func (p *problems) kept(at *field.Path, what string, now, old *corev1.ResourceRequirements) {
	removed := func(now, old corev1.ResourceList) bool {
		for name := range old {
			if _, kept := now[name]; !kept {
				return true
			}
		}
		return false
	}
	if removed(now.Requests, old.Requests) {
		p.forbidden(at.Child("requests"), what+" requests cannot be removed")
	}
	if removed(now.Limits, old.Limits) {
		p.forbidden(at.Child("limits"), what+" limits cannot be removed")
	}
}

// onlyResized tells whether nothing but cpu and memory has changed.
func onlyResized(now, old *corev1.Container) bool {
	same := *now
	same.Resources = old.Resources
	return apiequality.Semantic.DeepEqual(&same, old) && apiequality.Semantic.DeepEqual(fixed(&now.Resources), fixed(&old.Resources))
}

// fixed are the resources that cannot be resized.
func fixed(r *corev1.ResourceRequirements) *corev1.ResourceRequirements {
	r = r.DeepCopy()
	r.Claims = nil // which upstream does not compare
	for _, list := range []corev1.ResourceList{r.Limits, r.Requests} {
		delete(list, corev1.ResourceCPU)
		delete(list, corev1.ResourceMemory)
	}
	return r
}
