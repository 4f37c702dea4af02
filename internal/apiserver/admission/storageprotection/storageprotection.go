// Package storageprotection keeps claims and volumes until nobody uses them: it
// gives new ones the finalizer that a controller takes away
// (StorageObjectInUseProtection).
package storageprotection

import (
	"context"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Mutator.
type Plugin struct{}

// Mutate implements admission.Mutator.
func (Plugin) Mutate(_ context.Context, a *admission.Attributes) error {
	var finalizer string
	switch {
	case a.Operation != admission.Create:
		return nil
	case a.Is("", "persistentvolumeclaims", ""):
		finalizer = "kubernetes.io/pvc-protection"
	case a.Is("", "persistentvolumes", ""):
		finalizer = "kubernetes.io/pv-protection"
	case a.Is("storage.k8s.io", "volumeattributesclasses", ""):
		finalizer = "kubernetes.io/vac-protection"
	default:
		return nil
	}
	obj := a.Object.(metav1.Object)
	if finalizers := obj.GetFinalizers(); !slices.Contains(finalizers, finalizer) {
		obj.SetFinalizers(append(slices.Clone(finalizers), finalizer))
	}
	return nil
}
