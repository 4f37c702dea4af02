package persistentvolume

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
)

// syncVolume brings a volume's phase into line with its claim.
func (b *binder) syncVolume(ctx context.Context, pv *corev1.PersistentVolume) error {
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return b.phase(ctx, pv, corev1.VolumeAvailable, "")
	}
	claim, err := b.claimOf(ctx, ref)
	switch {
	case err != nil:
		return err
	case claim == nil:
		return b.release(ctx, pv)
	case claim.Spec.VolumeName == pv.Name:
		return b.phase(ctx, pv, corev1.VolumeBound, "")
	case claim.Spec.VolumeName == "":
		// The claim's own turn finishes or refuses the binding.
		if volume.CheckVolumeModeMismatches(&claim.Spec, &pv.Spec) {
			message := fmt.Sprintf("Cannot bind PersistentVolume %q to requested PersistentVolumeClaim %q due to incompatible volumeMode.", pv.Name, claim.Name)
			b.recorder.Event(pv, corev1.EventTypeWarning, "VolumeMismatch", message)
			b.recorder.Event(claim, corev1.EventTypeWarning, "VolumeMismatch", message)
		}
		return nil
	case pv.Annotations[volume.AnnDynamicallyProvisioned] != "" && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		// It was made for this claim, which has got another one.
		return b.release(ctx, pv)
	}
	return b.unbind(ctx, pv)
}

// claimOf returns the claim that a volume refers to, or nil if it is gone. One
// that was made anew under the same name is another claim.
func (b *binder) claimOf(ctx context.Context, ref *corev1.ObjectReference) (*corev1.PersistentVolumeClaim, error) {
	key := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
	claim, err := get(ctx, b.Cache, key, &corev1.PersistentVolumeClaim{})
	if err != nil {
		return nil, err
	}
	if claim == nil || claim.UID != ref.UID {
		// Data depends on it: the cache is not enough.
		if claim, err = get(ctx, b.Client, key, &corev1.PersistentVolumeClaim{}); err != nil {
			return nil, err
		}
	}
	if claim == nil || claim.UID != ref.UID {
		return nil, nil
	}
	return claim, nil
}

// release follows the reclaim policy of a volume whose claim is gone.
func (b *binder) release(ctx context.Context, pv *corev1.PersistentVolume) error {
	if pv.Status.Phase != corev1.VolumeReleased && pv.Status.Phase != corev1.VolumeFailed {
		released, err := b.setPhase(ctx, pv, corev1.VolumeReleased, "")
		if err != nil {
			return err
		}
		pv = released
	}
	switch pv.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimDelete:
		if pv.Annotations[volume.AnnDynamicallyProvisioned] != "" {
			// Its provisioner sees the phase and deletes it.
			return nil
		}
		return b.fail(ctx, pv, "VolumeFailedDelete",
			fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", pv.Name))
	case corev1.PersistentVolumeReclaimRecycle:
		return b.fail(ctx, pv, "VolumeFailedRecycle", "No recycler plugin found for the volume!")
	}
	return nil
}

func (b *binder) fail(ctx context.Context, pv *corev1.PersistentVolume, reason, message string) error {
	if pv.Status.Phase == corev1.VolumeFailed {
		return nil
	}
	b.recorder.Event(pv, corev1.EventTypeWarning, reason, message)
	return b.phase(ctx, pv, corev1.VolumeFailed, message)
}

// unbind undoes a binding: all of it if the binder made it, else it leaves the
// claim's name, which the volume's author gave.
func (b *binder) unbind(ctx context.Context, pv *corev1.PersistentVolume) error {
	next := pv.DeepCopy()
	if _, ours := pv.Annotations[volume.AnnBoundByController]; ours {
		next.Spec.ClaimRef = nil
		delete(next.Annotations, volume.AnnBoundByController)
	} else {
		next.Spec.ClaimRef.UID = ""
	}
	if err := b.Client.Update(ctx, next); err != nil {
		return crclient.IgnoreNotFound(err)
	}
	b.Log.Debug("took a binding back", "volume", controller.Key(pv))
	return b.phase(ctx, next, corev1.VolumeAvailable, "")
}

// setPhase writes the phase, and why, if the phase is new, and returns the
// volume with it.
func (b *binder) setPhase(ctx context.Context, pv *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) (*corev1.PersistentVolume, error) {
	if pv.Status.Phase == phase {
		return pv, nil
	}
	next := pv.DeepCopy()
	next.Status.Phase, next.Status.Message = phase, message
	return next, crclient.IgnoreNotFound(b.Client.Status().Update(ctx, next))
}

func (b *binder) phase(ctx context.Context, pv *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) error {
	_, err := b.setPhase(ctx, pv, phase, message)
	return err
}
