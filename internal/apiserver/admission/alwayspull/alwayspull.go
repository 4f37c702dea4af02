// Package alwayspull makes nodes ask for every image anew, so that a pod only
// runs what its own credentials give access to (AlwaysPullImages).
package alwayspull

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Mutator and admission.Validator.
type Plugin struct{}

// Mutate implements admission.Mutator.
func (Plugin) Mutate(_ context.Context, a *admission.Attributes) error {
	each(a, func(_ *field.Path, policy *corev1.PullPolicy) { *policy = corev1.PullAlways })
	return nil
}

// Validate implements admission.Validator.
func (Plugin) Validate(_ context.Context, a *admission.Attributes) error {
	var errs []error
	each(a, func(path *field.Path, policy *corev1.PullPolicy) {
		if *policy != corev1.PullAlways {
			errs = append(errs, a.Forbidden("%w", field.NotSupported(path, *policy, []corev1.PullPolicy{corev1.PullAlways})))
		}
	})
	return utilerrors.NewAggregate(errs)
}

// each visits the pull policies of a pod that is made, or whose images change.
func each(a *admission.Attributes, visit func(*field.Path, *corev1.PullPolicy)) {
	if !a.Is("", "pods", "") || a.Operation != admission.Create && a.Operation != admission.Update {
		return
	}
	pod := a.Object.(*corev1.Pod)
	if old, ok := a.Old.(*corev1.Pod); ok && !newImages(pod, old) {
		return
	}
	visitSpec(&pod.Spec, func(path *field.Path, _ string, policy *corev1.PullPolicy) { visit(path, policy) })
}

func visitSpec(s *corev1.PodSpec, visit func(path *field.Path, image string, policy *corev1.PullPolicy)) {
	spec := field.NewPath("spec")
	for i := range s.InitContainers {
		visit(spec.Child("initContainers").Index(i).Child("imagePullPolicy"), s.InitContainers[i].Image, &s.InitContainers[i].ImagePullPolicy)
	}
	for i := range s.Containers {
		visit(spec.Child("containers").Index(i).Child("imagePullPolicy"), s.Containers[i].Image, &s.Containers[i].ImagePullPolicy)
	}
	for i := range s.EphemeralContainers {
		visit(spec.Child("ephemeralContainers").Index(i).Child("imagePullPolicy"), s.EphemeralContainers[i].Image, &s.EphemeralContainers[i].ImagePullPolicy)
	}
	for i := range s.Volumes {
		if image := s.Volumes[i].Image; image != nil {
			visit(spec.Child("volumes").Index(i).Child("image", "pullPolicy"), image.Reference, &image.PullPolicy)
		}
	}
}

// newImages reports whether a pod uses images that it did not before.
func newImages(pod, old *corev1.Pod) bool {
	known := map[string]bool{}
	visitSpec(&old.Spec, func(_ *field.Path, image string, _ *corev1.PullPolicy) { known[image] = true })
	added := false
	visitSpec(&pod.Spec, func(_ *field.Path, image string, _ *corev1.PullPolicy) { added = added || !known[image] })
	return added
}
