// Package replicaset keeps the number of pods that ReplicaSets and
// ReplicationControllers ask for. The two differ in their types only; Core
// works for both.
package replicaset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/expect"
	"skiff/internal/controllers/index"
	"skiff/internal/controllers/pods"
)

var kind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

const (
	workers = 5
	// burst is the greatest number of pods made or removed in one step.
	burst = 500
)

type reconciler struct {
	controller.Deps
	control pods.Control
	tracker *expect.Tracker
	events  record.EventRecorder
}

// New makes the ReplicaSet controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, tracker: expect.New(d.Clock), events: d.Recorder("replicaset-controller")}
	r.control = pods.Control{Client: d.Client, Recorder: r.events, Tracker: r.tracker}
	return controller.New(d, "replicaset", workers, r.reconcile,
		controller.WatchSelf(d, &appsv1.ReplicaSet{}),
		pods.Watch(d, r.tracker, kind, func() crclient.ObjectList { return &appsv1.ReplicaSetList{} }, selects))
}

func selects(rs *appsv1.ReplicaSet, pod labels.Set) bool {
	s, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	return err == nil && !s.Empty() && s.Matches(pod)
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var rs appsv1.ReplicaSet
	if err := r.Cache.Get(ctx, key, &rs); err != nil {
		if apierrors.IsNotFound(err) {
			r.tracker.Forget(key)
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, err
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.TerminalError(err)
	}
	found, err := pods.Owned(ctx, r.Cache, &rs, selector)
	if err != nil {
		return reconcile.Result{}, err
	}
	wait := expect.Wait(r.tracker, key, found, controller.Exists(ctx, r.Cache, &corev1.Pod{}))
	found, err = controller.Claim(ctx, r.Client, &rs, kind, selector, found, func(ctx context.Context) (crclient.Object, error) {
		var live appsv1.ReplicaSet
		return &live, r.Client.Get(ctx, key, &live)
	})
	if err != nil {
		return reconcile.Result{}, err
	}
	set := Set{Object: &rs, Ref: metav1.NewControllerRef(&rs, kind), Replicas: *rs.Spec.Replicas, Template: &rs.Spec.Template, Pods: found}
	var manageErr error
	if wait == 0 && rs.DeletionTimestamp == nil {
		manageErr = Manage(ctx, set, &r.control, func() []*corev1.Pod { return r.related(ctx, &rs, found) }, r.Clock.Now())
	}
	status := Status(&rs, found, manageErr, r.Clock.Now())
	if err := r.updateStatus(ctx, &rs, status); err != nil {
		return reconcile.Result{}, err
	}
	if manageErr != nil {
		return reconcile.Result{}, manageErr
	}
	if next := NextAvailable(found, rs.Spec.MinReadySeconds, r.Clock.Now()); next > 0 && (wait == 0 || next < wait) {
		wait = next
	}
	return reconcile.Result{RequeueAfter: wait}, nil
}

// related are the pods of all sets of the Deployment that rs belongs to.
func (r *reconciler) related(ctx context.Context, rs *appsv1.ReplicaSet, own []*corev1.Pod) []*corev1.Pod {
	owner := metav1.GetControllerOfNoCopy(rs)
	if owner == nil {
		return own
	}
	var sets appsv1.ReplicaSetList
	if err := r.Cache.List(ctx, &sets, crclient.InNamespace(rs.Namespace), crclient.MatchingFields{index.Controller: string(owner.UID)}, crclient.UnsafeDisableDeepCopy); err != nil {
		return own
	}
	var all []*corev1.Pod
	for i := range sets.Items {
		var list corev1.PodList
		if err := r.Cache.List(ctx, &list, crclient.InNamespace(rs.Namespace), crclient.MatchingFields{index.Controller: string(sets.Items[i].UID)}, crclient.UnsafeDisableDeepCopy); err != nil {
			return own
		}
		for j := range list.Items {
			all = append(all, &list.Items[j])
		}
	}
	return all
}

func (r *reconciler) updateStatus(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if apiequality.Semantic.DeepEqual(rs.Status, status) {
		return nil
	}
	next := rs.DeepCopy()
	next.Status = status
	err := r.Client.Status().Update(ctx, next)
	if !apierrors.IsConflict(err) {
		return crclient.IgnoreNotFound(err)
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if err := r.Client.Get(ctx, controller.Key(rs), next); err != nil {
			return crclient.IgnoreNotFound(err)
		}
		if next.UID != rs.UID {
			return nil
		}
		next.Status = status
		return crclient.IgnoreNotFound(r.Client.Status().Update(ctx, next))
	})
}
