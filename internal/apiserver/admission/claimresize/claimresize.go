// Package claimresize lets only those claims grow whose storage class says that
// it can do so (PersistentVolumeClaimResize).
package claimresize

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Validator.
type Plugin struct{ Cache client.Reader }

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Update || !a.Is("", "persistentvolumeclaims", "") {
		return nil
	}
	claim, old := a.Object.(*corev1.PersistentVolumeClaim), a.Old.(*corev1.PersistentVolumeClaim)
	if growth(claim, old) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return a.Forbidden("Only bound persistent volume claims can be expanded")
	}
	name := volume.GetPersistentVolumeClaimClass(claim)
	class := &storagev1.StorageClass{}
	if name == "" || p.Cache.Get(ctx, client.ObjectKey{Name: name}, class, client.UnsafeDisableDeepCopy) != nil ||
		class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return a.Forbidden("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
	}
	return nil
}

// growth is positive if the claim asks for more than it did.
func growth(claim, old *corev1.PersistentVolumeClaim) int {
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	return size.Cmp(old.Spec.Resources.Requests[corev1.ResourceStorage])
}
