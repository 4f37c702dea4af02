// Package ephemeralvolume makes the claims of pods' generic ephemeral volumes.
// A claim belongs to its pod and goes with it.
package ephemeralvolume

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

type reconciler struct {
	controller.Deps
	recorder record.EventRecorder
}

// New makes the ephemeral-volume controller. Its keys are pods.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{d, d.Recorder("ephemeral_volume")}
	return controller.New(d, "ephemeralvolume", 4, r.reconcile,
		controller.Watch(d, &corev1.Pod{}, func(q controller.Queue, old, pod *corev1.Pod) {
			if pod != nil && old == nil && wanting(pod) {
				controller.Add(q, pod.Namespace, pod.Name)
			}
		}),
		controller.Watch(d, &corev1.PersistentVolumeClaim{}, func(q controller.Queue, old, claim *corev1.PersistentVolumeClaim) {
			// Whoever deletes a pod's claim gets another one. A claim that was in
			// the way of one may also be gone now.
			if claim != nil {
				return
			}
			var pods corev1.PodList
			if err := d.Cache.List(context.Background(), &pods, crclient.InNamespace(old.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
				d.Log.Error("listing the pods of a claim", "claim", controller.Key(old), "error", err)
			}
			for i := range pods.Items {
				p := &pods.Items[i]
				for j := range p.Spec.Volumes {
					if v := &p.Spec.Volumes[j]; v.Ephemeral != nil && ephemeral.VolumeClaimName(p, v) == old.Name {
						controller.Add(q, p.Namespace, p.Name)
					}
				}
			}
		}))
}

func wanting(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral != nil {
			return true
		}
	}
	return false
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var pod corev1.Pod
	if err := r.Cache.Get(ctx, key, &pod, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if !wanting(&pod) {
		return reconcile.Result{}, nil
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		if err := r.ensure(ctx, &pod, v); err != nil {
			r.recorder.Eventf(&pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{}, nil
}

// ensure makes the claim of a volume. One of that name which belongs to
// somebody else is an error: the pod must not get at its data.
func (r *reconciler) ensure(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	template := v.Ephemeral.VolumeClaimTemplate.DeepCopy()
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: ephemeral.VolumeClaimName(pod, v),
			Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: template.Spec,
	}
	var existing corev1.PersistentVolumeClaim
	err := r.Cache.Get(ctx, controller.Key(claim), &existing, crclient.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		err = r.Client.Create(ctx, claim)
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		err = r.Client.Get(ctx, controller.Key(claim), &existing)
	}
	if err != nil {
		return err
	}
	return ephemeral.VolumeIsForPod(pod, &existing)
}
