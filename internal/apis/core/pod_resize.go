package core

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
)

// podResize changes the cpu and memory of a pod in place (KEP-1287, KEP-5419).
func podResize() apis.Subresource {
	return apis.Subresource{
		Name:  "resize",
		New:   newPod,
		Verbs: []string{"get", "patch", "update"},
		Edit: func(_ context.Context, obj apis.Object, body runtime.Object) error {
			return takeResources(obj.(*corev1.Pod), body.(*corev1.Pod))
		},
		Validate: func(_ context.Context, obj, old apis.Object) field.ErrorList {
			return validatePodResize(obj.(*corev1.Pod), old.(*corev1.Pod))
		},
	}
}

// takeResources copies what a resize may change, and nothing else, from want.
func takeResources(pod, want *corev1.Pod) error {
	refuse := func(at *field.Path, detail string) error {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Pod").GroupKind(), pod.Name, field.ErrorList{field.Forbidden(at, detail)})
	}
	take := func(name string, into, from []corev1.Container) error {
		at := field.NewPath("spec", name)
		if len(into) != len(from) {
			return refuse(at, "pod updates may not add or remove containers")
		}
		for i := range into {
			if into[i].Name != from[i].Name {
				return refuse(at.Index(i).Child("name"), fmt.Sprintf("containers may not be renamed or reordered on resize: expected %q", into[i].Name))
			}
			into[i].Resources, into[i].ResizePolicy = from[i].Resources, from[i].ResizePolicy
		}
		return nil
	}
	pod.Spec.Resources = want.Spec.Resources
	if err := take("initContainers", pod.Spec.InitContainers, want.Spec.InitContainers); err != nil {
		return err
	}
	return take("containers", pod.Spec.Containers, want.Spec.Containers)
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
	for _, s := range old.Status.ContainerStatuses {
		if s.State.Running != nil && s.Resources == nil {
			p.forbidden(at, "Pod running on node without support for resize")
			break
		}
	}
	for i := range old.Spec.InitContainers {
		now, was := &pod.Spec.InitContainers[i], &old.Spec.InitContainers[i]
		if isSidecar(was) {
			p.resized(at.Child("initContainers").Index(i).Child("resources"), &now.Resources, &was.Resources, "only cpu and memory resources for sidecar containers are mutable")
		} else if !apiequality.Semantic.DeepEqual(now, was) {
			p.forbidden(at, "resources for non-sidecar init containers are immutable")
		}
	}
	for i := range old.Spec.Containers {
		p.resized(at.Child("containers").Index(i).Child("resources"), &pod.Spec.Containers[i].Resources, &old.Spec.Containers[i].Resources, onlyComputeMutable)
	}
	empty := &corev1.ResourceRequirements{}
	now, was := pod.Spec.Resources, old.Spec.Resources
	if now == nil {
		now = empty
	}
	if was == nil {
		was = empty
	}
	p.resized(at.Child("resources"), now, was, onlyComputeMutable)
	return p.list()
}

const onlyComputeMutable = "only cpu and memory resources are mutable"

func (p *problems) resized(at *field.Path, now, old *corev1.ResourceRequirements, otherwise string) {
	removed := func(now, old corev1.ResourceList) bool {
		for name := range old {
			if _, kept := now[name]; !kept {
				return true
			}
		}
		return false
	}
	if removed(now.Requests, old.Requests) {
		p.forbidden(at.Child("requests"), "resource requests cannot be removed")
	}
	if removed(now.Limits, old.Limits) {
		p.forbidden(at.Child("limits"), "resource limits cannot be removed")
	}
	others := func(r *corev1.ResourceRequirements) *corev1.ResourceRequirements {
		r = r.DeepCopy()
		for _, list := range []corev1.ResourceList{r.Limits, r.Requests} {
			delete(list, corev1.ResourceCPU)
			delete(list, corev1.ResourceMemory)
		}
		return r
	}
	if !apiequality.Semantic.DeepEqual(others(now), others(old)) {
		p.forbidden(field.NewPath("spec"), otherwise)
	}
}
