// Package expand looks after claims that ask for more than their volume has.
// The drivers that can expand volumes do so outside of the control plane (the
// external resizer), and the node grows the file system; here it is said that
// they are waited for.
package expand

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

type reconciler struct {
	controller.Deps
	recorder record.EventRecorder
}

// New makes the controller. Its keys are claims.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{d, d.Recorder("volume_expand")}
	return controller.New(d, "expand", 1, r.reconcile,
		controller.Watch(d, &corev1.PersistentVolumeClaim{}, func(q controller.Queue, old, c *corev1.PersistentVolumeClaim) {
			if c != nil && old != nil && c.Spec.Resources.Requests.Storage().Cmp(*old.Spec.Resources.Requests.Storage()) > 0 {
				controller.Add(q, c.Namespace, c.Name)
			}
		}))
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var claim corev1.PersistentVolumeClaim
	if err := r.Cache.Get(ctx, key, &claim, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.Resources.Requests.Storage().Cmp(*claim.Status.Capacity.Storage()) <= 0 {
		return reconcile.Result{}, nil
	}
	r.recorder.Event(&claim, corev1.EventTypeNormal, "ExternalExpanding", "waiting for an external controller to expand this PVC")
	return reconcile.Result{}, nil
}
