// Package statefulset keeps the pods of StatefulSets, each with a name, an
// ordinal and volume claims of its own.
package statefulset

import (
	"context"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/expect"
	"skiff/internal/controllers/history"
	"skiff/internal/controllers/pods"
)

var (
	kind    = appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	podKind = corev1.SchemeGroupVersion.WithKind("Pod")
)

const workers = 5

type reconciler struct {
	controller.Deps
	tracker *expect.Tracker
	events  record.EventRecorder
	history history.Control
}

// New makes the StatefulSet controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{
		Deps: d, tracker: expect.New(d.Clock), events: d.Recorder("statefulset-controller"),
		history: history.Control{Client: d.Client, Cache: d.Cache, Kind: kind, HashLabel: "controller.kubernetes.io/hash"},
	}
	return controller.New(d, "statefulset", workers, r.reconcile,
		controller.WatchSelf(d, &appsv1.StatefulSet{}),
		controller.Watch(d, &corev1.Pod{}, r.podChanged),
		controller.Watch(d, &corev1.PersistentVolumeClaim{}, r.claimChanged))
}

func (r *reconciler) podChanged(q controller.Queue, old, pod *corev1.Pod) {
	for _, p := range []*corev1.Pod{old, pod} {
		if p == nil {
			continue
		}
		r.tracker.Saw(p)
		name := controller.OwnerName(p, kind)
		if metav1.GetControllerOfNoCopy(p) == nil {
			// It may be adopted, or be in the way.
			name, _ = parent(p)
			if name != "" && !r.exists(p.Namespace, name) {
				continue
			}
		}
		if name != "" {
			controller.Add(q, p.Namespace, name)
		}
	}
}

func (r *reconciler) exists(namespace, name string) bool {
	key := types.NamespacedName{Namespace: namespace, Name: name}
	return r.Cache.Get(context.Background(), key, &appsv1.StatefulSet{}, crclient.UnsafeDisableDeepCopy) == nil
}

// claimChanged wakes the set that waits for a claim of an earlier pod to go.
func (r *reconciler) claimChanged(q controller.Queue, old, claim *corev1.PersistentVolumeClaim) {
	if claim != nil {
		return
	}
	var all appsv1.StatefulSetList
	if err := r.Cache.List(context.Background(), &all, crclient.InNamespace(old.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing stateful sets for a claim that is gone", "claim", controller.Key(old), "error", err)
		return
	}
	for i := range all.Items {
		for j := range all.Items[i].Spec.VolumeClaimTemplates {
			if strings.HasPrefix(old.Name, all.Items[i].Spec.VolumeClaimTemplates[j].Name+"-"+all.Items[i].Name+"-") {
				controller.Add(q, old.Namespace, all.Items[i].Name)
			}
		}
	}
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var shared appsv1.StatefulSet
	if err := r.Cache.Get(ctx, key, &shared, crclient.UnsafeDisableDeepCopy); err != nil {
		if apierrors.IsNotFound(err) {
			r.tracker.Forget(key)
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, err
	}
	set := shared.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.TerminalError(err)
	}
	live := func(ctx context.Context) (crclient.Object, error) {
		var live appsv1.StatefulSet
		return &live, r.Client.Get(ctx, key, &live)
	}
	found, err := pods.Owned(ctx, r.Cache, set, selector)
	if err != nil {
		return reconcile.Result{}, err
	}
	found = members(set, found)
	if wait := expect.Wait(r.tracker, key, found, controller.Exists(ctx, r.Cache, &corev1.Pod{})); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	if found, err = controller.Claim(ctx, r.Client, set, kind, selector, found, live); err != nil {
		return reconcile.Result{}, err
	}
	s := &step{reconciler: r, set: set, key: key, now: r.Clock.Now()}
	if set.DeletionTimestamp != nil {
		s.found = found
		return reconcile.Result{}, r.writeStatus(ctx, &shared, s.status(set.Status.CurrentRevision, set.Status.UpdateRevision))
	}
	revisions, err := r.history.List(ctx, set, selector, live)
	if err != nil {
		return reconcile.Result{}, err
	}
	update, revisions, err := r.history.Sync(ctx, set, &set.Spec.Template, revisions, &set.Status.CollisionCount)
	if err != nil {
		return reconcile.Result{}, ignoreTerminating(err)
	}
	current := update
	for _, c := range revisions {
		if c.Name == set.Status.CurrentRevision {
			current = c
		}
	}
	if err := s.plan(current, update, found); err != nil {
		return reconcile.Result{}, err
	}
	stepErr := s.run(ctx)
	status := s.status(current.Name, update.Name)
	if err := r.writeStatus(ctx, &shared, status); err != nil {
		return reconcile.Result{}, err
	}
	if stepErr != nil {
		return reconcile.Result{}, ignoreTerminating(stepErr)
	}
	used := map[string]bool{status.CurrentRevision: true, update.Name: true, current.Name: true}
	for _, p := range found {
		used[revisionOf(p)] = true
	}
	err = r.history.Truncate(ctx, revisions, ptr.Deref(set.Spec.RevisionHistoryLimit, 10), func(c *appsv1.ControllerRevision) bool { return used[c.Name] })
	return reconcile.Result{RequeueAfter: s.nextAvailable()}, err
}

// ignoreTerminating: nothing can be made in a namespace that is being deleted.
func ignoreTerminating(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// members leaves out pods that match the selector by accident.
func members(set *appsv1.StatefulSet, all []*corev1.Pod) []*corev1.Pod {
	var some []*corev1.Pod
	for _, p := range all {
		if name, _ := parent(p); name == set.Name || metav1.IsControlledBy(p, set) {
			some = append(some, p)
		}
	}
	return some
}

func (r *reconciler) writeStatus(ctx context.Context, shared *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	if apiequality.Semantic.DeepEqual(shared.Status, status) {
		return nil
	}
	next := shared.DeepCopy()
	next.Status = status
	return crclient.IgnoreNotFound(r.Client.Status().Update(ctx, next))
}

// nextAvailable returns when the next ready pod becomes available, or 0.
func (s *step) nextAvailable() time.Duration {
	var next time.Duration
	for _, p := range append(s.replicas, s.condemned...) {
		if left, ok := pods.AvailableIn(p, s.set.Spec.MinReadySeconds, s.now); ok && left > 0 && (next == 0 || left < next) {
			next = left
		}
	}
	return next
}
