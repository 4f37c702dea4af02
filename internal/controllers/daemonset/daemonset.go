// Package daemonset keeps one pod of every DaemonSet on each node that it is
// for.
package daemonset

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
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/expect"
	"skiff/internal/controllers/history"
	"skiff/internal/controllers/pods"
	"skiff/internal/controllers/replicaset"
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

const (
	workers = 2
	burst   = 250
	// generationLabel is how pods were told apart before there were hashes.
	generationLabel = "pod-template-generation"
)

type reconciler struct {
	controller.Deps
	control  pods.Control
	tracker  *expect.Tracker
	events   record.EventRecorder
	history  history.Control
	failures failures
}

// New makes the DaemonSet controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{
		Deps: d, tracker: expect.New(d.Clock), events: d.Recorder("daemonset-controller"),
		history: history.Control{Client: d.Client, Cache: d.Cache, Kind: kind, HashLabel: appsv1.DefaultDaemonSetUniqueLabelKey},
	}
	r.control = pods.Control{Client: d.Client, Recorder: r.events, Tracker: r.tracker}
	return controller.New(d, "daemonset", workers, r.reconcile,
		controller.WatchSelf(d, &appsv1.DaemonSet{}),
		controller.Watch(d, &corev1.Node{}, r.nodeChanged),
		pods.Watch(d, r.tracker, kind, func() crclient.ObjectList { return &appsv1.DaemonSetList{} }, selects))
}

func selects(ds *appsv1.DaemonSet, pod labels.Set) bool {
	s, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	return err == nil && !s.Empty() && s.Matches(pod)
}

// nodeChanged wakes all sets when a node comes, goes or becomes another as far
// as scheduling goes.
func (r *reconciler) nodeChanged(q controller.Queue, old, node *corev1.Node) {
	if old != nil && node != nil && apiequality.Semantic.DeepEqual(old.Labels, node.Labels) && apiequality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
		return
	}
	var all appsv1.DaemonSetList
	if err := r.Cache.List(context.Background(), &all, crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing daemon sets", "error", err)
	}
	for i := range all.Items {
		controller.Add(q, all.Items[i].Namespace, all.Items[i].Name)
	}
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var shared appsv1.DaemonSet
	if err := r.Cache.Get(ctx, key, &shared, crclient.UnsafeDisableDeepCopy); err != nil {
		if apierrors.IsNotFound(err) {
			r.tracker.Forget(key)
			r.failures.forget(key)
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, err
	}
	ds := shared.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.TerminalError(err)
	}
	if selector.Empty() {
		r.events.Event(ds, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return reconcile.Result{}, nil
	}
	if ds.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	live := func(ctx context.Context) (crclient.Object, error) {
		var live appsv1.DaemonSet
		return &live, r.Client.Get(ctx, key, &live)
	}
	found, err := pods.Owned(ctx, r.Cache, ds, selector)
	if err != nil {
		return reconcile.Result{}, err
	}
	if wait := expect.Wait(r.tracker, key, found, controller.Exists(ctx, r.Cache, &corev1.Pod{})); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	if found, err = controller.Claim(ctx, r.Client, ds, kind, selector, found, live); err != nil {
		return reconcile.Result{}, err
	}
	var nodes corev1.NodeList
	if err := r.Cache.List(ctx, &nodes, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	hash, revisions, err := r.revision(ctx, ds, selector, live)
	if err != nil {
		return reconcile.Result{}, ignoreTerminating(err)
	}
	now := r.Clock.Now()
	wait := replicaset.NextAvailable(found, ds.Spec.MinReadySeconds, now)
	p := newPlan(ds, nodes.Items, found, hash, now, func(pod *corev1.Pod) bool {
		left := r.failures.left(key, pod, now)
		if left > 0 && (wait == 0 || left < wait) {
			wait = left
		}
		return left == 0
	})
	planErr := r.carryOut(ctx, ds, p, hash)
	status := p.status()
	if !apiequality.Semantic.DeepEqual(status, shared.Status) {
		ds.Status = status
		if err := r.Client.Status().Update(ctx, ds); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	if planErr != nil {
		return reconcile.Result{}, ignoreTerminating(planErr)
	}
	return reconcile.Result{RequeueAfter: wait}, r.dropHistory(ctx, ds, revisions, found, hash)
}

// ignoreTerminating: nothing can be made in a namespace that is being deleted.
func ignoreTerminating(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// carryOut does what the plan says, at most burst pods at a time.
func (r *reconciler) carryOut(ctx context.Context, ds *appsv1.DaemonSet, p *plan, hash string) error {
	remove := p.remove[:min(len(p.remove), burst)]
	_, removeErr := pods.SlowStart(len(remove), func(i int) error {
		pod := remove[i]
		switch pod.Status.Phase {
		case corev1.PodFailed:
			r.failures.note(controller.Key(ds), pod, p.now)
			r.events.Eventf(ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, pod.Spec.NodeName)
		case corev1.PodSucceeded:
			r.events.Eventf(ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, pod.Spec.NodeName)
		}
		return r.control.Delete(ctx, ds, pod)
	})
	ref := metav1.NewControllerRef(ds, kind)
	_, err := pods.SlowStart(min(len(p.create), burst), func(i int) error {
		pod := pods.FromTemplate(&ds.Spec.Template, ds, ref)
		pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
		if generation := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; generation != "" {
			pod.Labels[generationLabel] = generation
		}
		pod.Spec.Tolerations = tolerations(pod)
		bindTo(pod, p.create[i])
		return r.control.Create(ctx, ds, pod)
	})
	if err != nil {
		return err
	}
	return removeErr
}

// revision returns the hash of the template's revision, which marks the pods
// made from it, and all revisions.
func (r *reconciler) revision(ctx context.Context, ds *appsv1.DaemonSet, selector labels.Selector, live func(context.Context) (crclient.Object, error)) (string, []*appsv1.ControllerRevision, error) {
	all, err := r.history.List(ctx, ds, selector, live)
	if err != nil {
		return "", nil, err
	}
	current, all, err := r.history.Sync(ctx, ds, &ds.Spec.Template, all, &ds.Status.CollisionCount)
	if err != nil {
		return "", nil, err
	}
	if hash := current.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]; hash != "" {
		return hash, all, nil
	}
	// Made by hand: its name is as good as a hash.
	marked := current.DeepCopy()
	if marked.Labels == nil {
		marked.Labels = map[string]string{}
	}
	marked.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = marked.Name
	return marked.Name, all, r.Client.Update(ctx, marked)
}

// dropHistory removes revisions beyond the limit that no pod is made from.
func (r *reconciler) dropHistory(ctx context.Context, ds *appsv1.DaemonSet, all []*appsv1.ControllerRevision, found []*corev1.Pod, hash string) error {
	used := map[string]bool{hash: true}
	for _, p := range found {
		used[p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
	}
	return r.history.Truncate(ctx, all, ptr.Deref(ds.Spec.RevisionHistoryLimit, 10), func(c *appsv1.ControllerRevision) bool {
		return used[c.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]]
	})
}
