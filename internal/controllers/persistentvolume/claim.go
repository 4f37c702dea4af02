package persistentvolume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// syncUnbound finds a volume for a claim.
func (b *binder) syncUnbound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Spec.VolumeName != "" {
		return b.syncRequested(ctx, claim)
	}
	class, err := b.classOf(ctx, claim)
	if err != nil {
		return err
	}
	waits := class != nil && ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer
	pv, err := b.match(ctx, claim, waits && !volume.IsDelayBindingProvisioning(claim))
	if err != nil {
		return err
	}
	if pv != nil {
		return b.bind(ctx, pv, claim)
	}
	if !volume.PersistentVolumeClaimHasClass(claim) {
		if given, err := b.giveClass(ctx, claim); given || err != nil {
			return err
		}
	}
	switch name := volume.GetPersistentVolumeClaimClass(claim); {
	case waits && !volume.IsDelayBindingProvisioning(claim):
		if err := b.announceWait(ctx, claim); err != nil {
			return err
		}
	case name == "":
		b.recorder.Event(claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	case class == nil:
		b.recorder.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", name)
	default:
		if err := b.provision(ctx, claim, class); err != nil {
			return err
		}
	}
	return b.setClaimStatus(ctx, claim, corev1.ClaimPending, nil)
}

// syncRequested binds a claim that names its volume.
func (b *binder) syncRequested(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	pv, err := get(ctx, b.Cache, types.NamespacedName{Name: claim.Spec.VolumeName}, &corev1.PersistentVolume{})
	switch {
	case err != nil:
		return err
	case pv == nil:
	case pv.Spec.ClaimRef == nil:
		why := mismatch(pv, claim)
		if why == nil {
			return b.bind(ctx, pv, claim)
		}
		b.recorder.Eventf(claim, corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind to requested volume %q: %s", pv.Name, why)
	case volume.IsVolumeBoundToClaim(pv, claim):
		return b.bind(ctx, pv, claim)
	default:
		b.recorder.Eventf(claim, corev1.EventTypeWarning, "FailedBinding", "volume %q already bound to a different claim.", pv.Name)
	}
	return b.setClaimStatus(ctx, claim, corev1.ClaimPending, nil)
}

// mismatch says why the volume cannot be the one that the claim names.
func mismatch(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	have, want := pv.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case have.Cmp(want) < 0:
		return errors.New("requested PV is too small")
	case volume.GetPersistentVolumeClass(pv) != volume.GetPersistentVolumeClaimClass(claim):
		return errors.New("storageClassName does not match")
	case ptr.Deref(pv.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, ""):
		return errors.New("volumeAttributesClassName does not match")
	case volume.CheckVolumeModeMismatches(&claim.Spec, &pv.Spec):
		return errors.New("incompatible volumeMode")
	case !volume.CheckAccessModes(claim, pv):
		return errors.New("incompatible accessMode")
	}
	return nil
}

// syncBound looks after a claim that was bound.
func (b *binder) syncBound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	lost := func(reason, message string) error {
		if claim.Status.Phase != corev1.ClaimLost {
			b.recorder.Event(claim, corev1.EventTypeWarning, reason, message)
		}
		return b.setClaimStatus(ctx, claim, corev1.ClaimLost, nil)
	}
	if claim.Spec.VolumeName == "" {
		return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	pv, err := get(ctx, b.Cache, types.NamespacedName{Name: claim.Spec.VolumeName}, &corev1.PersistentVolume{})
	switch {
	case err != nil:
		return err
	case pv == nil:
		return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case pv.Spec.ClaimRef == nil, pv.Spec.ClaimRef.UID == claim.UID:
		return b.bind(ctx, pv, claim)
	}
	return lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

// match returns the volume that suits the claim best: the one that names it,
// or, unless only those count, the smallest that will do.
func (b *binder) match(ctx context.Context, claim *corev1.PersistentVolumeClaim, onlyNamed bool) (*corev1.PersistentVolume, error) {
	keys := b.volumes.of(ofClaim(claim.Namespace, claim.Name))
	if !onlyNamed {
		keys = append(keys, b.volumes.of(ofClass(volume.GetPersistentVolumeClaimClass(claim)))...)
	}
	var candidates []*corev1.PersistentVolume
	for _, key := range keys {
		pv, err := get(ctx, b.Cache, key, &corev1.PersistentVolume{})
		if err != nil {
			return nil, err
		}
		if pv != nil && volume.CheckAccessModes(claim, pv) {
			candidates = append(candidates, pv)
		}
	}
	// Among volumes of one size the first by name is taken.
	slices.SortFunc(candidates, func(x, y *corev1.PersistentVolume) int { return strings.Compare(x.Name, y.Name) })
	return volume.FindMatchingVolume(claim, candidates, nil, nil, onlyNamed, true)
}

// bind finishes the binding, whatever of it has been done already.
func (b *binder) bind(ctx context.Context, pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	bound, changed, err := volume.GetBindVolumeToClaim(pv, claim)
	if err != nil {
		return err
	}
	if changed {
		if err := b.Client.Update(ctx, bound); err != nil {
			return err
		}
	}
	if err := b.phase(ctx, bound, corev1.VolumeBound, ""); err != nil {
		return err
	}
	next := claim.DeepCopy()
	if next.Spec.VolumeName != pv.Name {
		next.Spec.VolumeName = pv.Name
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	if !metav1.HasAnnotation(next.ObjectMeta, volume.AnnBindCompleted) {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, volume.AnnBindCompleted, "yes")
	}
	if !equality.Semantic.DeepEqual(next, claim) {
		if err := b.Client.Update(ctx, next); err != nil {
			return err
		}
	}
	return b.setClaimStatus(ctx, next, corev1.ClaimBound, bound)
}

// setClaimStatus writes the phase and what the claim has of its volume.
func (b *binder) setClaimStatus(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, pv *corev1.PersistentVolume) error {
	next := claim.DeepCopy()
	next.Status.Phase = phase
	switch {
	case pv == nil:
		next.Status.AccessModes, next.Status.Capacity = nil, nil
	default:
		next.Status.AccessModes = pv.Spec.AccessModes
		if claim.Status.Phase != phase {
			// Later the file system may be smaller than the volume for a while.
			if _, ok := pv.Spec.Capacity[corev1.ResourceStorage]; !ok {
				return fmt.Errorf("volume %s has no capacity %s: set spec.capacity.storage", pv.Name, corev1.ResourceStorage)
			}
			next.Status.Capacity = pv.Spec.Capacity
			next.Status.CurrentVolumeAttributesClassName = pv.Spec.VolumeAttributesClassName
			if ptr.Deref(pv.Spec.VolumeAttributesClassName, "") == "" {
				next.Status.CurrentVolumeAttributesClassName = nil
			}
		}
	}
	if equality.Semantic.DeepEqual(next.Status, claim.Status) {
		return nil
	}
	return crclient.IgnoreNotFound(b.Client.Status().Update(ctx, next))
}
