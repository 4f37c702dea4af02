// Package deployment rolls Deployments out: it keeps one ReplicaSet for each
// revision of the pod template and moves replicas between them.
package deployment

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/expect"
	"skiff/internal/controllers/index"
	"skiff/internal/controllers/pods"
)

var (
	kind    = appsv1.SchemeGroupVersion.WithKind("Deployment")
	setKind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
)

const workers = 5

type reconciler struct {
	controller.Deps
	events  record.EventRecorder
	tracker *expect.Tracker
}

// New makes the Deployment controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, events: d.Recorder("deployment-controller"), tracker: expect.New(d.Clock)}
	return controller.New(d, "deployment", workers, r.reconcile,
		controller.WatchSelf(d, &appsv1.Deployment{}),
		controller.Watch(d, &appsv1.ReplicaSet{}, r.setChanged),
		controller.Watch(d, &corev1.Pod{}, r.podChanged))
}

func (r *reconciler) setChanged(q controller.Queue, old, set *appsv1.ReplicaSet) {
	for _, s := range []*appsv1.ReplicaSet{old, set} {
		if s == nil {
			continue
		}
		r.tracker.Saw(s)
		if name := controller.OwnerName(s, kind); name != "" {
			controller.Add(q, s.Namespace, name)
		}
	}
	if !controller.Adoptable(old, set) {
		return
	}
	var all appsv1.DeploymentList
	if err := r.Cache.List(context.Background(), &all, crclient.InNamespace(set.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing deployments for an orphaned replica set", "replicaset", controller.Key(set), "error", err)
		return
	}
	for i := range all.Items {
		if s, err := metav1.LabelSelectorAsSelector(all.Items[i].Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(set.Labels)) {
			controller.Add(q, set.Namespace, all.Items[i].Name)
		}
	}
}

// podChanged wakes a Deployment of strategy Recreate, which waits for the last
// old pod to end.
func (r *reconciler) podChanged(q controller.Queue, old, pod *corev1.Pod) {
	if old == nil || (pod != nil && (!pods.Finished(pod) || pods.Finished(old))) {
		return
	}
	name := controller.OwnerName(old, setKind)
	if name == "" {
		return
	}
	var set appsv1.ReplicaSet
	if err := r.Cache.Get(context.Background(), types.NamespacedName{Namespace: old.Namespace, Name: name}, &set, crclient.UnsafeDisableDeepCopy); err != nil {
		return
	}
	owner := controller.OwnerName(&set, kind)
	var d appsv1.Deployment
	if owner == "" || r.Cache.Get(context.Background(), types.NamespacedName{Namespace: old.Namespace, Name: owner}, &d, crclient.UnsafeDisableDeepCopy) != nil {
		return
	}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		controller.Add(q, d.Namespace, d.Name)
	}
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var stored appsv1.Deployment
	if err := r.Cache.Get(ctx, key, &stored, crclient.UnsafeDisableDeepCopy); err != nil {
		if apierrors.IsNotFound(err) {
			r.tracker.Forget(key)
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, err
	}
	d := stored.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.TerminalError(err)
	}
	if selector.Empty() {
		r.events.Event(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		d.Status.ObservedGeneration = d.Generation
		return reconcile.Result{}, r.writeStatus(ctx, &stored, d)
	}
	sets, err := r.sets(ctx, d)
	if err != nil {
		return reconcile.Result{}, err
	}
	if wait := expect.Wait(r.tracker, key, sets, controller.Exists(ctx, r.Cache, &appsv1.ReplicaSet{})); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	sets, err = controller.Claim(ctx, r.Client, d, kind, selector, sets, func(ctx context.Context) (crclient.Object, error) {
		var live appsv1.Deployment
		return &live, r.Client.Get(ctx, key, &live)
	})
	if err != nil {
		return reconcile.Result{}, err
	}
	w := &rollout{d: d, now: r.Clock.Now()}
	w.split(sets)
	stepErr := r.step(ctx, w)
	if err := r.writeStatus(ctx, &stored, d); err != nil {
		return reconcile.Result{}, err
	}
	if stepErr != nil {
		return reconcile.Result{}, stepErr
	}
	return reconcile.Result{RequeueAfter: untilDeadline(d, w.now)}, nil
}

// sets returns copies of the ReplicaSets that d controls or might adopt.
func (r *reconciler) sets(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	var candidates []*appsv1.ReplicaSet
	for _, uid := range []string{string(d.UID), index.Orphans} {
		var list appsv1.ReplicaSetList
		if err := r.Cache.List(ctx, &list, crclient.InNamespace(d.Namespace), crclient.MatchingFields{index.Controller: uid}, crclient.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
		for i := range list.Items {
			candidates = append(candidates, list.Items[i].DeepCopy())
		}
	}
	return candidates, nil
}

// step does the next thing of the rollout and puts the status that follows
// into w.d.
func (r *reconciler) step(ctx context.Context, w *rollout) error {
	d := w.d
	switch {
	case d.DeletionTimestamp != nil:
		d.Status = w.status()
		return nil
	case d.Spec.Paused || w.resized():
		w.notePause()
		if err := r.syncRevision(ctx, w, false); err != nil {
			return err
		}
		if err := r.scaleAll(ctx, w, w.resize()); err != nil {
			return err
		}
		if d.Spec.Paused {
			if err := r.dropHistory(ctx, w); err != nil {
				return err
			}
		}
		d.Status = w.status()
		return nil
	}
	w.notePause()
	err := r.rollOut(ctx, w)
	w.progress()
	return err
}

// rollOut moves replicas from the old ReplicaSets to the new one.
func (r *reconciler) rollOut(ctx context.Context, w *rollout) error {
	recreate := w.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
	if recreate {
		if err := r.syncRevision(ctx, w, false); err != nil {
			return err
		}
		if down := w.oldToZero(); len(down) > 0 {
			return r.scaleAll(ctx, w, down)
		}
		if running, err := r.oldPodsRun(ctx, w); err != nil || running {
			return err
		}
	}
	if err := r.syncRevision(ctx, w, true); err != nil || w.new == nil {
		return err
	}
	plan := w.rollingStep()
	if recreate {
		plan = []resize{{w.new, *w.d.Spec.Replicas}}
	}
	before := w.sizes()
	if err := r.scaleAll(ctx, w, plan); err != nil {
		return err
	}
	if before == w.sizes() && complete(w.d, &w.d.Status) {
		return r.dropHistory(ctx, w)
	}
	return nil
}

func (r *reconciler) oldPodsRun(ctx context.Context, w *rollout) (bool, error) {
	for _, s := range w.old {
		var list corev1.PodList
		if err := r.Cache.List(ctx, &list, crclient.InNamespace(s.Namespace), crclient.MatchingFields{index.Controller: string(s.UID)}, crclient.UnsafeDisableDeepCopy); err != nil {
			return false, err
		}
		for i := range list.Items {
			if !pods.Finished(&list.Items[i]) {
				return true, nil
			}
		}
	}
	return false, nil
}

// dropHistory removes the oldest revisions beyond revisionHistoryLimit, except
// those that still have pods.
func (r *reconciler) dropHistory(ctx context.Context, w *rollout) error {
	for _, s := range w.beyondLimit() {
		err := r.Client.Delete(ctx, s, crclient.Preconditions{UID: &s.UID})
		if crclient.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

func (r *reconciler) writeStatus(ctx context.Context, stored, d *appsv1.Deployment) error {
	if stored.Annotations[revisionAnnotation] == d.Annotations[revisionAnnotation] && apiequality.Semantic.DeepEqual(stored.Status, d.Status) {
		return nil
	}
	return crclient.IgnoreNotFound(r.Client.Status().Update(ctx, d))
}

// untilDeadline returns when the rollout's progress deadline is to be looked
// at again, or 0 if it cannot pass.
func untilDeadline(d *appsv1.Deployment, now time.Time) time.Duration {
	c := condition(&d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(d) || c == nil || c.Reason == reasonTimedOut || complete(d, &d.Status) {
		return 0
	}
	deadline := c.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds)*time.Second + time.Second)
	return max(time.Second, deadline.Sub(now))
}
