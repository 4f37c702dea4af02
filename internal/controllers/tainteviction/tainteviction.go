// Package tainteviction deletes pods from nodes whose NoExecute taints they do
// not, or no longer, tolerate.
package tainteviction

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/index"
	"skiff/internal/controllers/pods"
)

const workers = 8

type reconciler struct {
	controller.Deps
	events record.EventRecorder

	mu sync.Mutex
	// since is when the time began to run that a pod tolerates its node's
	// taints for.
	since map[types.NamespacedName]start

	// deletions counts pods that were driven out, late how long after their time.
	deletions prometheus.Counter
	late      prometheus.Histogram
}

type start struct {
	uid types.UID
	at  time.Time
}

// New makes the taint eviction controller. Its keys are pods.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, events: d.Recorder("taint-eviction-controller"), since: map[types.NamespacedName]start{}}
	auto := promauto.With(d.Metrics.Registerer())
	r.deletions = auto.NewCounter(prometheus.CounterOpts{Name: "taint_eviction_controller_pod_deletions_total", Help: "Pods that taints drove out."})
	r.late = auto.NewHistogram(prometheus.HistogramOpts{
		Name: "taint_eviction_controller_pod_deletion_duration_seconds", Help: "Time between when a pod should go and when it is deleted.",
		Buckets: []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 30, 60, 120, 180, 240},
	})
	return controller.New(d, "tainteviction", workers, r.reconcile,
		controller.Watch(d, &corev1.Node{}, r.nodeChanged),
		controller.Watch(d, &corev1.Pod{}, r.podChanged))
}

func (r *reconciler) podChanged(q controller.Queue, old, pod *corev1.Pod) {
	switch {
	case pod == nil:
		r.forget(controller.Key(old))
	case pod.Spec.NodeName == "" || pods.Finished(pod) || pod.DeletionTimestamp != nil:
	case old == nil || old.Spec.NodeName != pod.Spec.NodeName || !apiequality.Semantic.DeepEqual(old.Spec.Tolerations, pod.Spec.Tolerations):
		controller.Add(q, pod.Namespace, pod.Name)
	}
}

func (r *reconciler) nodeChanged(q controller.Queue, old, node *corev1.Node) {
	if node == nil {
		return
	}
	if old == nil && len(noExecute(node)) == 0 || old != nil && apiequality.Semantic.DeepEqual(noExecute(old), noExecute(node)) {
		return
	}
	var list corev1.PodList
	if err := r.Cache.List(context.Background(), &list, crclient.MatchingFields{index.Node: node.Name}, crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing the pods of a tainted node", "node", node.Name, "error", err)
		return
	}
	for i := range list.Items {
		controller.Add(q, list.Items[i].Namespace, list.Items[i].Name)
	}
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var pod corev1.Pod
	if err := r.Cache.Get(ctx, key, &pod, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if pod.Spec.NodeName == "" || pods.Finished(&pod) || pod.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	var node corev1.Node
	if err := r.Cache.Get(ctx, types.NamespacedName{Name: pod.Spec.NodeName}, &node, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	tolerated, limited := tolerates(pod.Spec.Tolerations, noExecute(&node))
	if !limited {
		if r.forget(key) {
			r.events.Eventf(&pod, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", key)
		}
		return reconcile.Result{}, nil
	}
	now := r.Clock.Now()
	left := r.begin(key, pod.UID, now).Add(tolerated).Sub(now)
	if left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	r.events.Eventf(&pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", key)
	if err := r.evict(ctx, pod.DeepCopy(), now); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	r.deletions.Inc()
	r.late.Observe(-left.Seconds())
	return reconcile.Result{}, nil
}

func (r *reconciler) evict(ctx context.Context, pod *corev1.Pod, now time.Time) error {
	before := pod.DeepCopy()
	if pods.SetDisruptionTarget(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", now) {
		if err := r.Client.Status().Patch(ctx, pod, crclient.StrategicMergeFrom(before)); err != nil {
			return err
		}
	}
	return r.Client.Delete(ctx, pod, crclient.Preconditions{UID: &pod.UID})
}

// begin returns when the pod's time began, which is now if it did not yet.
func (r *reconciler) begin(key types.NamespacedName, uid types.UID, now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.since[key]
	if !ok || s.uid != uid {
		s = start{uid, now}
		r.since[key] = s
	}
	return s.at
}

func (r *reconciler) forget(key types.NamespacedName) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.since[key]
	delete(r.since, key)
	return ok
}

// noExecute returns the node's taints of that effect, without their times.
func noExecute(n *corev1.Node) []corev1.Taint {
	var some []corev1.Taint
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			t.TimeAdded = nil
			some = append(some, t)
		}
	}
	return some
}

// tolerates returns for how long the taints together are tolerated; limited is
// false if that is for ever.
func tolerates(tolerations []corev1.Toleration, taints []corev1.Taint) (lasting time.Duration, limited bool) {
	for i := range taints {
		matched := false
		for j := range tolerations {
			t := &tolerations[j]
			if !pods.Tolerates(t, &taints[i]) {
				continue
			}
			matched = true
			if t.TolerationSeconds == nil {
				continue
			}
			seconds := time.Duration(max(0, *t.TolerationSeconds)) * time.Second
			if !limited || seconds < lasting {
				lasting, limited = seconds, true
			}
		}
		if !matched {
			return 0, true
		}
	}
	return lasting, limited
}
