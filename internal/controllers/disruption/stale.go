package disruption

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/pods"
)

// staleAfter is how long a pod keeps the mark that it is about to be disrupted
// while nothing happens to it.
const staleAfter = 2 * time.Minute

// NewStale makes the controller that takes the condition DisruptionTarget back
// from pods that stayed. Its keys are pods.
func NewStale(d controller.Deps) (controller.Runnable, error) {
	return controller.New(d, "disruption-stale", 1, func(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
		var shared corev1.Pod
		if err := d.Cache.Get(ctx, key, &shared, crclient.UnsafeDisableDeepCopy); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
		if !marked(&shared) {
			return reconcile.Result{}, nil
		}
		now := d.Clock.Now()
		if left := pods.Condition(&shared, corev1.DisruptionTarget).LastTransitionTime.Add(staleAfter).Sub(now); left > 0 {
			return reconcile.Result{RequeueAfter: left}, nil
		}
		p := shared.DeepCopy()
		*pods.Condition(p, corev1.DisruptionTarget) = corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(now),
		}
		return reconcile.Result{}, crclient.IgnoreNotFound(d.Client.Status().Update(ctx, p))
	}, controller.Watch(d, &corev1.Pod{}, func(q controller.Queue, _, pod *corev1.Pod) {
		if pod != nil && marked(pod) {
			controller.Add(q, pod.Namespace, pod.Name)
		}
	}))
}

// marked reports whether the pod is marked and nothing has happened yet. A
// kubelet takes its time, and its mark is never stale.
func marked(p *corev1.Pod) bool {
	c := pods.Condition(p, corev1.DisruptionTarget)
	return c != nil && c.Status == corev1.ConditionTrue && c.Reason != corev1.PodReasonTerminationByKubelet && p.DeletionTimestamp == nil && !pods.Finished(p)
}
