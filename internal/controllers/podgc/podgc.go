// Package podgc removes pods that no kubelet will remove: those of nodes that
// are gone, those that were deleted before they had a node, and the oldest of
// too many that ended.
package podgc

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/index"
	"skiff/internal/controllers/pods"
)

// Options bound what is kept.
type Options struct {
	// Terminated is the number of ended pods that are kept; 0 means 12500, and
	// a negative number all.
	Terminated int
	// Quarantine is how long a node must be missing before its pods go; 0 means
	// 40 s.
	Quarantine time.Duration
}

// sweep is how long after a pod has ended all that have are counted.
const sweep = 20 * time.Second

type reconciler struct {
	controller.Deps
	Options
	// missing is when a node was first found missing.
	missing map[string]time.Time
}

// New makes the pod garbage collector. A key is a pod; or a node, without a
// namespace; or empty, for the count of ended pods.
func New(d controller.Deps, o Options) (controller.Runnable, error) {
	o.Terminated = cmp.Or(o.Terminated, 12500)
	o.Quarantine = cmp.Or(o.Quarantine, 40*time.Second)
	r := &reconciler{Deps: d, Options: o, missing: map[string]time.Time{}}
	return controller.New(d, "podgc", 1, r.reconcile,
		controller.Watch(d, &corev1.Node{}, func(q controller.Queue, old, node *corev1.Node) {
			switch {
			case node == nil:
				controller.Add(q, "", old.Name)
			case outOfService(node):
				controller.Add(q, "", node.Name)
			}
		}),
		controller.Watch(d, &corev1.Pod{}, func(q controller.Queue, old, pod *corev1.Pod) {
			if pod != nil && pods.Finished(pod) && (old == nil || !pods.Finished(old)) {
				q.AddAfter(controller.Request{}, sweep)
			}
			switch {
			case pod == nil:
			case pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil:
				controller.Add(q, pod.Namespace, pod.Name)
			case pod.Spec.NodeName == "":
			case old == nil || old.Spec.NodeName == "" || old.DeletionTimestamp == nil && pod.DeletionTimestamp != nil:
				if node, err := r.node(context.Background(), pod.Spec.NodeName); err == nil && (node == nil || outOfService(node)) {
					controller.Add(q, "", pod.Spec.NodeName)
				}
			}
		}))
}

// node returns the node, or nil if there is none of that name.
func (r *reconciler) node(ctx context.Context, name string) (*corev1.Node, error) {
	var n corev1.Node
	err := r.Cache.Get(ctx, types.NamespacedName{Name: name}, &n, crclient.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return &n, err
}

// outOfService: an operator says that the node is down, and its pods with it.
func outOfService(n *corev1.Node) bool {
	ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	return !ready && slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	switch {
	case key.Namespace != "":
		return reconcile.Result{}, r.unscheduled(ctx, key)
	case key.Name != "":
		return r.orphans(ctx, key.Name)
	}
	return reconcile.Result{}, r.ended(ctx)
}

// unscheduled removes a pod that was deleted before it had a node.
func (r *reconciler) unscheduled(ctx context.Context, key types.NamespacedName) error {
	var pod corev1.Pod
	if err := r.Cache.Get(ctx, key, &pod, crclient.UnsafeDisableDeepCopy); err != nil {
		return crclient.IgnoreNotFound(err)
	}
	if pod.Spec.NodeName != "" || pod.DeletionTimestamp == nil {
		return nil
	}
	return r.remove(ctx, &pod, nil)
}

// orphans removes the pods of a node that is gone for good, and those of one
// that is out of service which wait for it to end them.
func (r *reconciler) orphans(ctx context.Context, node string) (reconcile.Result, error) {
	n, err := r.node(ctx, node)
	if err != nil {
		return reconcile.Result{}, err
	}
	if n != nil {
		delete(r.missing, node)
		if outOfService(n) {
			err = r.removeAll(ctx, node, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil }, nil)
		}
		return reconcile.Result{}, err
	}
	watch := r.Stopwatch()
	since, ok := r.missing[node]
	if !ok {
		since = watch.Now()
		r.missing[node] = since
	}
	if left := r.Quarantine - watch.Since(since); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	if err := r.Client.Get(ctx, types.NamespacedName{Name: node}, &corev1.Node{}); !apierrors.IsNotFound(err) {
		delete(r.missing, node)
		return reconcile.Result{}, err
	}
	err = r.removeAll(ctx, node, func(*corev1.Pod) bool { return true }, func(p *corev1.Pod) {
		pods.SetDisruptionTarget(p, "DeletionByPodGC", "PodGC: node no longer exists", r.Clock.Now())
	})
	if err == nil {
		delete(r.missing, node)
	}
	return reconcile.Result{}, err
}

// removeAll removes those pods of the node that are in question.
func (r *reconciler) removeAll(ctx context.Context, node string, which func(*corev1.Pod) bool, mark func(*corev1.Pod)) error {
	var list corev1.PodList
	if err := r.Cache.List(ctx, &list, crclient.MatchingFields{index.Node: node}, crclient.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	for i := range list.Items {
		if !which(&list.Items[i]) {
			continue
		}
		if err := r.remove(ctx, &list.Items[i], mark); err != nil {
			return err
		}
	}
	return nil
}

// ended removes the oldest ended pods beyond the number to keep.
func (r *reconciler) ended(ctx context.Context) error {
	if r.Terminated < 0 {
		return nil
	}
	var list corev1.PodList
	if err := r.Cache.List(ctx, &list, crclient.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	for _, p := range beyond(list.Items, r.Terminated) {
		if err := r.remove(ctx, p, nil); err != nil {
			return err
		}
	}
	return nil
}

// beyond returns the ended pods that are too many, the oldest first.
func beyond(all []corev1.Pod, keep int) []*corev1.Pod {
	var ended []*corev1.Pod
	for i := range all {
		if pods.Finished(&all[i]) {
			ended = append(ended, &all[i])
		}
	}
	if len(ended) <= keep {
		return nil
	}
	slices.SortStableFunc(ended, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return ended[:len(ended)-keep]
}

// remove deletes the pod at once. One that has not ended becomes Failed first,
// so that its owner sees that it did not succeed.
func (r *reconciler) remove(ctx context.Context, shared *corev1.Pod, mark func(*corev1.Pod)) error {
	pod := shared.DeepCopy()
	if !pods.Finished(pod) {
		pod.Status.Phase = corev1.PodFailed
		if mark != nil {
			mark(pod)
		}
		err := r.Client.Status().Patch(ctx, pod, crclient.StrategicMergeFrom(shared))
		if err != nil {
			return crclient.IgnoreNotFound(err)
		}
	}
	return crclient.IgnoreNotFound(r.Client.Delete(ctx, pod, crclient.GracePeriodSeconds(0), crclient.Preconditions{UID: &pod.UID}))
}
