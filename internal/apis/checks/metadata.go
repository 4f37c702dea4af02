package checks

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// MetadataUpdate compares an object's metadata with what it was.
func MetadataUpdate(obj, old metav1.Object) field.ErrorList {
	return append(validation.ValidateObjectMetaAccessorUpdate(obj, old, field.NewPath("metadata")), QualifiedFinalizers(obj)...)
}

// QualifiedFinalizers finds finalizers without a domain that are not the system's
// own.
func QualifiedFinalizers(obj metav1.Object) (errs field.ErrorList) {
	for i, f := range obj.GetFinalizers() {
		if !strings.Contains(f, "/") && f != string(corev1.FinalizerKubernetes) && f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "finalizers").Index(i), f, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}
