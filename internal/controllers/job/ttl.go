package job

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// NewTTL makes the controller that deletes finished Jobs after their
// ttlSecondsAfterFinished (KEP-592).
func NewTTL(d controller.Deps) (controller.Runnable, error) {
	late := promauto.With(d.Metrics.Registerer()).NewHistogram(prometheus.HistogramOpts{
		Name: "ttl_after_finished_controller_job_deletion_duration_seconds", Help: "Time between when a Job should be deleted and when it is.",
		Buckets: prometheus.ExponentialBuckets(0.1, 2, 14),
	})
	return controller.New(d, "ttlafterfinished", 1, func(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
		var cached batchv1.Job
		if err := d.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
		left, ok := expiresIn(&cached, d.Clock.Now())
		if !ok || left > 0 {
			return reconcile.Result{RequeueAfter: left}, nil
		}
		// The time to live may have been changed meanwhile.
		var live batchv1.Job
		if err := d.Client.Get(ctx, key, &live); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
		if left, ok = expiresIn(&live, d.Clock.Now()); !ok || left > 0 {
			return reconcile.Result{RequeueAfter: left}, nil
		}
		err := d.Client.Delete(ctx, &live, crclient.PropagationPolicy(metav1.DeletePropagationForeground),
			crclient.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion})
		if err == nil {
			late.Observe(-left.Seconds())
		}
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}, controller.WatchSelf(d, &batchv1.Job{}))
}

// expiresIn returns how long a finished job is still kept; ok is false if it
// is kept for good.
func expiresIn(j *batchv1.Job, now time.Time) (left time.Duration, ok bool) {
	if j.Spec.TTLSecondsAfterFinished == nil || j.DeletionTimestamp != nil {
		return 0, false
	}
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second).Sub(now), true
		}
	}
	return 0, false
}
