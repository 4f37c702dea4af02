// Package persistentvolume binds claims to persistent volumes, both ways, hands
// claims without a volume to the provisioner of their class, and says what
// becomes of volumes whose claim is gone.
//
// A binding is four writes (the volume's claimRef, its phase, the claim's
// volumeName, its phase), any of which may be missing after a crash: every
// object is brought one step further from whatever state it is found in. The
// volume's claimRef decides; it is written under compare-and-swap, so that of
// two claims only one gets a volume.
package persistentvolume

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

type binder struct {
	controller.Deps
	recorder record.EventRecorder
	// volumes are the free ones of each class, and those that name a claim.
	// claims are those that wait: for a volume of a class, or for one by name.
	volumes, claims groups
}

// New makes the persistent-volume binder. A key is a claim, or a volume, which
// has no namespace.
func New(d controller.Deps) (controller.Runnable, error) {
	b := &binder{Deps: d, recorder: d.Recorder("persistentvolume-controller")}
	// One worker, so that claims do not race for the same volume.
	return controller.New(d, "persistentvolume", 1, b.reconcile,
		controller.Watch(d, &corev1.PersistentVolume{}, b.volumeEvent),
		controller.Watch(d, &corev1.PersistentVolumeClaim{}, b.claimEvent),
		controller.Watch(d, &storagev1.StorageClass{}, b.classEvent))
}

func ofClass(class string) string           { return "class " + class }
func ofClaim(namespace, name string) string { return "claim " + namespace + "/" + name }

func volumeGroup(pv *corev1.PersistentVolume) string {
	switch {
	case pv == nil:
		return ""
	case pv.Spec.ClaimRef != nil:
		return ofClaim(pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name)
	}
	return ofClass(volume.GetPersistentVolumeClass(pv))
}

func ofVolume(name string) string { return "volume " + name }

// noClass is the group of claims that leave their class open, which is not the
// empty class.
const noClass = "none"

func claimGroup(c *corev1.PersistentVolumeClaim) string {
	switch {
	case c == nil, c.Status.Phase == corev1.ClaimBound:
		return ""
	case c.Spec.VolumeName != "":
		return ofVolume(c.Spec.VolumeName)
	case !volume.PersistentVolumeClaimHasClass(c):
		return noClass
	}
	return ofClass(volume.GetPersistentVolumeClaimClass(c))
}

func (b *binder) volumeEvent(q controller.Queue, old, pv *corev1.PersistentVolume) {
	last := pv
	if pv == nil {
		last = old
	}
	b.volumes.move(types.NamespacedName{Name: last.Name}, volumeGroup(old), volumeGroup(pv))
	controller.Add(q, "", last.Name)
	for _, state := range []*corev1.PersistentVolume{old, pv} {
		if state != nil && state.Spec.ClaimRef != nil {
			controller.Add(q, state.Spec.ClaimRef.Namespace, state.Spec.ClaimRef.Name)
		}
	}
	b.wake(q, ofVolume(last.Name))
	if pv != nil && pv.Spec.ClaimRef == nil && pv.Status.Phase == corev1.VolumeAvailable {
		b.wake(q, volumeGroup(pv))
		if pv.Spec.StorageClassName == "" {
			b.wake(q, noClass)
		}
	}
}

func (b *binder) claimEvent(q controller.Queue, old, c *corev1.PersistentVolumeClaim) {
	last := c
	if c == nil {
		last = old
	}
	key := controller.Key(last)
	b.claims.move(key, claimGroup(old), claimGroup(c))
	if c != nil {
		controller.Add(q, c.Namespace, c.Name)
	}
	if last.Spec.VolumeName != "" {
		controller.Add(q, "", last.Spec.VolumeName)
	}
	for _, pv := range b.volumes.of(ofClaim(last.Namespace, last.Name)) {
		controller.Add(q, "", pv.Name)
	}
}

func (b *binder) classEvent(q controller.Queue, _, class *storagev1.StorageClass) {
	if class == nil {
		return
	}
	b.wake(q, ofClass(class.Name))
	if isDefault(class) {
		b.wake(q, noClass)
	}
}

// wake looks at all claims of a group again.
func (b *binder) wake(q controller.Queue, group string) {
	for _, claim := range b.claims.of(group) {
		controller.Add(q, claim.Namespace, claim.Name)
	}
}

func (b *binder) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	if key.Namespace == "" {
		pv, err := get(ctx, b.Cache, key, &corev1.PersistentVolume{})
		if pv == nil {
			return reconcile.Result{}, err
		}
		return reconcile.Result{}, b.syncVolume(ctx, pv)
	}
	claim, err := get(ctx, b.Cache, key, &corev1.PersistentVolumeClaim{})
	if claim == nil {
		return reconcile.Result{}, err
	}
	if _, bound := claim.Annotations[volume.AnnBindCompleted]; bound {
		return reconcile.Result{}, b.syncBound(ctx, claim)
	}
	return reconcile.Result{}, b.syncUnbound(ctx, claim)
}

// get reads an object; it returns nil if there is none. Objects from a cache
// are shared.
func get[T crclient.Object](ctx context.Context, from crclient.Reader, key types.NamespacedName, into T) (T, error) {
	var none T
	if err := from.Get(ctx, key, into, crclient.UnsafeDisableDeepCopy); err != nil {
		return none, crclient.IgnoreNotFound(err)
	}
	return into, nil
}
