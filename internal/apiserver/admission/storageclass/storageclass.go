// Package storageclass gives claims that name no storage class the default one
// (DefaultStorageClass).
package storageclass

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// isDefault and its predecessor annotate the default class.
const (
	isDefault     = "storageclass.kubernetes.io/is-default-class"
	isDefaultBeta = "storageclass.beta.kubernetes.io/is-default-class"
)

// Plugin implements admission.Mutator.
type Plugin struct{ Cache client.Reader }

// Mutate implements admission.Mutator.
func (p *Plugin) Mutate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Create || !a.Is("", "persistentvolumeclaims", "") {
		return nil
	}
	claim := a.Object.(*corev1.PersistentVolumeClaim)
	if volume.PersistentVolumeClaimHasClass(claim) {
		return nil
	}
	var classes storagev1.StorageClassList
	if err := p.Cache.List(ctx, &classes, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	if class := newestDefault(classes.Items); class != nil {
		name := class.Name
		claim.Spec.StorageClassName = &name
	}
	return nil
}

// newestDefault returns the default class. If several claim to be it, the
// newest is, and of equally old ones the first by name.
func newestDefault(classes []storagev1.StorageClass) (best *storagev1.StorageClass) {
	for i := range classes {
		c := &classes[i]
		if c.Annotations[isDefault] != "true" && c.Annotations[isDefaultBeta] != "true" {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&c.CreationTimestamp) ||
			best.CreationTimestamp.Equal(&c.CreationTimestamp) && c.Name < best.Name {
			best = c
		}
	}
	return best
}
