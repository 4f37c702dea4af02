// Package replicationcontroller keeps the number of pods that
// ReplicationControllers ask for, by the rules of ReplicaSets.
package replicationcontroller

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/expect"
	"skiff/internal/controllers/pods"
	"skiff/internal/controllers/replicaset"
)

var kind = corev1.SchemeGroupVersion.WithKind("ReplicationController")

const workers = 5

type reconciler struct {
	controller.Deps
	control pods.Control
	tracker *expect.Tracker
}

// New makes the ReplicationController controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, tracker: expect.New(d.Clock)}
	r.control = pods.Control{Client: d.Client, Recorder: d.Recorder("replication-controller"), Tracker: r.tracker}
	return controller.New(d, "replicationcontroller", workers, r.reconcile,
		controller.WatchSelf(d, &corev1.ReplicationController{}),
		pods.Watch(d, r.tracker, kind, func() crclient.ObjectList { return &corev1.ReplicationControllerList{} }, selects))
}

func selects(rc *corev1.ReplicationController, pod labels.Set) bool {
	s := rc.Spec.Selector
	return len(s) > 0 && labels.SelectorFromValidatedSet(s).Matches(pod)
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var rc corev1.ReplicationController
	if err := r.Cache.Get(ctx, key, &rc, crclient.UnsafeDisableDeepCopy); err != nil {
		if apierrors.IsNotFound(err) {
			r.tracker.Forget(key)
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, err
	}
	selector := labels.SelectorFromValidatedSet(rc.Spec.Selector)
	found, err := pods.Owned(ctx, r.Cache, &rc, selector)
	if err != nil {
		return reconcile.Result{}, err
	}
	wait := expect.Wait(r.tracker, key, found, controller.Exists(ctx, r.Cache, &corev1.Pod{}))
	found, err = controller.Claim(ctx, r.Client, &rc, kind, selector, found, func(ctx context.Context) (crclient.Object, error) {
		var live corev1.ReplicationController
		return &live, r.Client.Get(ctx, key, &live)
	})
	if err != nil {
		return reconcile.Result{}, err
	}
	now := r.Clock.Now()
	set := replicaset.Set{Object: &rc, Ref: metav1.NewControllerRef(&rc, kind), Replicas: *rc.Spec.Replicas, Template: rc.Spec.Template, Pods: found}
	var manageErr error
	if wait == 0 && rc.DeletionTimestamp == nil {
		manageErr = replicaset.Manage(ctx, set, &r.control, func() []*corev1.Pod { return found }, now)
	}
	next := rc.DeepCopy()
	next.Status = status(&rc, replicaset.Status(asReplicaSet(&rc), found, manageErr, now))
	if !apiequality.Semantic.DeepEqual(next.Status, rc.Status) {
		if err := r.Client.Status().Update(ctx, next); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	if manageErr != nil {
		return reconcile.Result{}, manageErr
	}
	if soon := replicaset.NextAvailable(found, rc.Spec.MinReadySeconds, now); soon > 0 && (wait == 0 || soon < wait) {
		wait = soon
	}
	return reconcile.Result{RequeueAfter: wait}, nil
}

// asReplicaSet and status translate what the two kinds have in common.
func asReplicaSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec:       appsv1.ReplicaSetSpec{Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds, Template: *rc.Spec.Template},
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rs
}

func status(rc *corev1.ReplicationController, s appsv1.ReplicaSetStatus) corev1.ReplicationControllerStatus {
	next := corev1.ReplicationControllerStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas, ReadyReplicas: s.ReadyReplicas,
		AvailableReplicas: s.AvailableReplicas, ObservedGeneration: rc.Generation,
	}
	for _, c := range s.Conditions {
		next.Conditions = append(next.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return next
}
