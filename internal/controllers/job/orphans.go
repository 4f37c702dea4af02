package job

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/index"
)

// NewOrphans makes the controller that takes the finalizer off pods that no Job
// will count. Its keys are pods.
func NewOrphans(d controller.Deps) (controller.Runnable, error) {
	r := &orphans{d}
	return controller.New(d, "joborphans", 1, r.reconcile,
		controller.Watch(d, &corev1.Pod{}, func(q controller.Queue, _, pod *corev1.Pod) {
			if pod != nil && tracked(pod) && (pod.DeletionTimestamp != nil || metav1.GetControllerOfNoCopy(pod) == nil) {
				controller.Add(q, pod.Namespace, pod.Name)
			}
		}),
		controller.Watch(d, &batchv1.Job{}, func(q controller.Queue, old, job *batchv1.Job) {
			if job == nil {
				job = old
			} else if !finished(job) {
				return
			}
			var list corev1.PodList
			err := d.Cache.List(context.Background(), &list, crclient.InNamespace(job.Namespace), crclient.MatchingFields{index.Controller: string(job.UID)}, crclient.UnsafeDisableDeepCopy)
			if err != nil {
				d.Log.Error("listing the pods of a job", "job", controller.Key(job), "error", err)
			}
			for i := range list.Items {
				controller.Add(q, list.Items[i].Namespace, list.Items[i].Name)
			}
		}))
}

type orphans struct{ controller.Deps }

func (r *orphans) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var shared corev1.Pod
	if err := r.Cache.Get(ctx, key, &shared, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if !tracked(&shared) {
		return reconcile.Result{}, nil
	}
	if name := controller.OwnerName(&shared, kind); name != "" {
		var job batchv1.Job
		err := r.Client.Get(ctx, types.NamespacedName{Namespace: key.Namespace, Name: name}, &job)
		if crclient.IgnoreNotFound(err) != nil {
			return reconcile.Result{}, err
		}
		if err == nil && metav1.IsControlledBy(&shared, &job) && !finished(&job) {
			return reconcile.Result{}, nil
		}
	}
	p := shared.DeepCopy()
	controllerutil.RemoveFinalizer(p, batchv1.JobTrackingFinalizer)
	return reconcile.Result{}, crclient.IgnoreNotFound(r.Client.Patch(ctx, p, crclient.StrategicMergeFrom(&shared)))
}
