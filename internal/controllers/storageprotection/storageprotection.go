// Package storageprotection keeps claims while pods use them, volumes while
// they are bound, and volume attributes classes while something has them:
// admission gives each a finalizer, which is taken away here when the object
// is deleted and nobody needs it. Who takes it away before gets it back.
package storageprotection

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// The finalizers, which upstream's controllers take away too.
const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
	classFinalizer  = "kubernetes.io/vac-protection"
)

// protect makes a controller that takes the finalizer from deleted objects
// that are not in use, and gives it to others that lack it.
func protect[T crclient.Object](d controller.Deps, finalizer string, empty func() T, inUse func(context.Context, T) (bool, error)) controller.Reconcile {
	return func(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
		obj := empty()
		if err := d.Cache.Get(ctx, key, obj); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
		i := slices.Index(obj.GetFinalizers(), finalizer)
		switch {
		case obj.GetDeletionTimestamp() == nil && i < 0:
			obj.SetFinalizers(append(slices.Clone(obj.GetFinalizers()), finalizer))
			return reconcile.Result{}, crclient.IgnoreNotFound(d.Client.Update(ctx, obj))
		case obj.GetDeletionTimestamp() == nil || i < 0:
			return reconcile.Result{}, nil
		}
		if used, err := inUse(ctx, obj); used || err != nil {
			return reconcile.Result{}, err
		}
		obj.SetFinalizers(slices.Delete(slices.Clone(obj.GetFinalizers()), i, i+1))
		return reconcile.Result{}, crclient.IgnoreNotFound(d.Client.Update(ctx, obj))
	}
}

// concerns reports whether the finalizer may have to come or go.
func concerns(o crclient.Object, finalizer string) bool {
	return o.GetDeletionTimestamp() != nil || !slices.Contains(o.GetFinalizers(), finalizer)
}

// NewClaims makes the controller for claims.
func NewClaims(d controller.Deps) (controller.Runnable, error) {
	inUse := func(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
		// Read from the server: a pod may have been scheduled just now.
		var pods corev1.PodList
		if err := d.Client.List(ctx, &pods, crclient.InNamespace(claim.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
			return false, err
		}
		return slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return uses(&p, claim) }), nil
	}
	const name = "pvcprotection"
	return controller.New(d, name, 1,
		protect(d, claimFinalizer, func() *corev1.PersistentVolumeClaim { return &corev1.PersistentVolumeClaim{} }, inUse),
		controller.Watch(d, &corev1.PersistentVolumeClaim{}, func(q controller.Queue, _, c *corev1.PersistentVolumeClaim) {
			if c != nil && concerns(c, claimFinalizer) {
				controller.Add(q, c.Namespace, c.Name)
			}
		}),
		controller.Watch(d, &corev1.Pod{}, func(q controller.Queue, old, pod *corev1.Pod) {
			// A pod lets its claims go when it leaves the API or will never run.
			if pod != nil && !shutDown(pod) {
				return
			}
			if pod == nil {
				pod = old
			}
			for i := range pod.Spec.Volumes {
				if claim := claimName(pod, &pod.Spec.Volumes[i]); claim != "" {
					controller.Add(q, pod.Namespace, claim)
				}
			}
		}))
}

func claimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, v)
	}
	return ""
}

// uses reports whether the pod needs the claim. One without a node does not: no
// kubelet starts a pod whose claim is being deleted.
func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if pod.Spec.NodeName == "" {
		return false
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if claimName(pod, v) != claim.Name {
			continue
		}
		if v.Ephemeral == nil || !shutDown(pod) && ephemeral.VolumeIsForPod(pod, claim) == nil {
			return true
		}
	}
	return false
}

// shutDown reports whether the kubelet has done with the pod, which stays only
// for its finalizers.
func shutDown(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && ptr.Deref(pod.DeletionGracePeriodSeconds, 1) == 0
}

// NewVolumes makes the controller for persistent volumes.
func NewVolumes(d controller.Deps) (controller.Runnable, error) {
	const name = "pvprotection"
	return controller.New(d, name, 1,
		protect(d, volumeFinalizer, func() *corev1.PersistentVolume { return &corev1.PersistentVolume{} },
			func(_ context.Context, pv *corev1.PersistentVolume) (bool, error) {
				return pv.Status.Phase == corev1.VolumeBound, nil
			}),
		controller.Watch(d, &corev1.PersistentVolume{}, func(q controller.Queue, _, pv *corev1.PersistentVolume) {
			if pv != nil && concerns(pv, volumeFinalizer) {
				controller.Add(q, "", pv.Name)
			}
		}))
}

// NewAttributesClasses makes the controller for volume attributes classes.
func NewAttributesClasses(d controller.Deps) (controller.Runnable, error) {
	inUse := func(ctx context.Context, class *storagev1.VolumeAttributesClass) (bool, error) {
		var volumes corev1.PersistentVolumeList
		if err := d.Cache.List(ctx, &volumes, crclient.UnsafeDisableDeepCopy); err != nil {
			return false, err
		}
		for i := range volumes.Items {
			if ptr.Deref(volumes.Items[i].Spec.VolumeAttributesClassName, "") == class.Name {
				return true, nil
			}
		}
		var claims corev1.PersistentVolumeClaimList
		if err := d.Cache.List(ctx, &claims, crclient.UnsafeDisableDeepCopy); err != nil {
			return false, err
		}
		return slices.ContainsFunc(claims.Items, func(c corev1.PersistentVolumeClaim) bool { return slices.Contains(classes(&c), class.Name) }), nil
	}
	const name = "vacprotection"
	return controller.New(d, name, 1,
		protect(d, classFinalizer, func() *storagev1.VolumeAttributesClass { return &storagev1.VolumeAttributesClass{} }, inUse),
		controller.Watch(d, &storagev1.VolumeAttributesClass{}, func(q controller.Queue, _, c *storagev1.VolumeAttributesClass) {
			if c != nil && concerns(c, classFinalizer) {
				controller.Add(q, "", c.Name)
			}
		}),
		// What had a class and has no more may have been the last.
		controller.Watch(d, &corev1.PersistentVolume{}, func(q controller.Queue, old, _ *corev1.PersistentVolume) {
			if old != nil && ptr.Deref(old.Spec.VolumeAttributesClassName, "") != "" {
				controller.Add(q, "", *old.Spec.VolumeAttributesClassName)
			}
		}),
		controller.Watch(d, &corev1.PersistentVolumeClaim{}, func(q controller.Queue, old, _ *corev1.PersistentVolumeClaim) {
			if old != nil {
				for _, class := range classes(old) {
					controller.Add(q, "", class)
				}
			}
		}))
}

// classes returns the attributes classes that a claim has or is getting.
func classes(c *corev1.PersistentVolumeClaim) []string {
	var names []string
	for _, name := range []*string{c.Spec.VolumeAttributesClassName, c.Status.CurrentVolumeAttributesClassName} {
		if ptr.Deref(name, "") != "" {
			names = append(names, *name)
		}
	}
	if m := c.Status.ModifyVolumeStatus; m != nil && m.TargetVolumeAttributesClassName != "" {
		names = append(names, m.TargetVolumeAttributesClassName)
	}
	return names
}
