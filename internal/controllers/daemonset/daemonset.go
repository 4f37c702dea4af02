// Package daemonset keeps one pod of every DaemonSet on each node that it is
// for.
package daemonset

import (
	"context"
	"encoding/json"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/expect"
	"skiff/internal/controllers/index"
	"skiff/internal/controllers/pods"
	"skiff/internal/controllers/replicaset"
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

const (
	workers = 2
	burst   = 250
)

type reconciler struct {
	controller.Deps
	control pods.Control
	tracker *expect.Tracker
	events  record.EventRecorder
}

// New makes the DaemonSet controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, tracker: expect.New(d.Clock), events: d.Recorder("daemonset-controller")}
	r.control = pods.Control{Client: d.Client, Recorder: r.events, Tracker: r.tracker}
	return controller.New(d, "daemonset", workers, r.reconcile,
		controller.WatchSelf(d, &appsv1.DaemonSet{}),
		controller.Watch(d, &corev1.Node{}, r.nodeChanged),
		controller.Watch(d, &corev1.Pod{}, func(q controller.Queue, old, pod *corev1.Pod) {
			for _, p := range []*corev1.Pod{old, pod} {
				if p == nil {
					continue
				}
				r.tracker.Saw(p)
				if name := controller.OwnerName(p, kind); name != "" {
					controller.Add(q, p.Namespace, name)
				}
			}
		}))
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
	var ds appsv1.DaemonSet
	if err := r.Cache.Get(ctx, key, &ds, crclient.UnsafeDisableDeepCopy); err != nil {
		if apierrors.IsNotFound(err) {
			r.tracker.Forget(key)
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, err
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil || selector.Empty() {
		return reconcile.Result{}, reconcile.TerminalError(err)
	}
	if ds.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	found, err := pods.Owned(ctx, r.Cache, &ds, selector)
	if err != nil {
		return reconcile.Result{}, err
	}
	if wait := expect.Wait(r.tracker, key, found, controller.Exists(ctx, r.Cache, &corev1.Pod{})); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	found, err = controller.Claim(ctx, r.Client, &ds, kind, selector, found, func(ctx context.Context) (crclient.Object, error) {
		var live appsv1.DaemonSet
		return &live, r.Client.Get(ctx, key, &live)
	})
	if err != nil {
		return reconcile.Result{}, err
	}
	var nodes corev1.NodeList
	if err := r.Cache.List(ctx, &nodes, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	hash, err := r.revision(ctx, &ds)
	if err != nil {
		return reconcile.Result{}, err
	}
	now := r.Clock.Now()
	p := newPlan(&ds, nodes.Items, found, hash, now)
	if err := r.carryOut(ctx, &ds, p, hash); err != nil {
		return reconcile.Result{}, err
	}
	next := ds.DeepCopy()
	next.Status = p.status()
	if !apiequality.Semantic.DeepEqual(next.Status, ds.Status) {
		if err := r.Client.Status().Update(ctx, next); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	return reconcile.Result{RequeueAfter: replicaset.NextAvailable(found, ds.Spec.MinReadySeconds, now)}, nil
}

func (r *reconciler) carryOut(ctx context.Context, ds *appsv1.DaemonSet, p *plan, hash string) error {
	for _, pod := range p.remove {
		if pods.Finished(pod) {
			r.events.Eventf(ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, pod.Spec.NodeName)
		}
		if err := r.control.Delete(ctx, ds, pod); err != nil {
			return err
		}
	}
	ref := metav1.NewControllerRef(ds, kind)
	_, err := pods.SlowStart(min(len(p.create), burst), func(i int) error {
		pod := pods.FromTemplate(&ds.Spec.Template, ds, ref)
		pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
		pod.Spec.Tolerations = tolerations(pod)
		bindTo(pod, p.create[i])
		return r.control.Create(ctx, ds, pod)
	})
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// revision keeps the history of the template as ControllerRevisions, which
// kubectl rollout reads, and returns the newest one's hash.
func (r *reconciler) revision(ctx context.Context, ds *appsv1.DaemonSet) (string, error) {
	var list appsv1.ControllerRevisionList
	if err := r.Cache.List(ctx, &list, crclient.InNamespace(ds.Namespace), crclient.MatchingFields{index.Controller: string(ds.UID)}, crclient.UnsafeDisableDeepCopy); err != nil {
		return "", err
	}
	history := list.Items
	slices.SortFunc(history, func(a, b appsv1.ControllerRevision) int { return int(a.Revision - b.Revision) })
	hash := pods.TemplateHash(&ds.Spec.Template, ds.Status.CollisionCount)
	data, err := templatePatch(&ds.Spec.Template)
	if err != nil {
		return "", err
	}
	var newest int64
	if n := len(history); n > 0 {
		newest = history[n-1].Revision
	}
	name := ds.Name + "-" + hash
	at := slices.IndexFunc(history, func(h appsv1.ControllerRevision) bool { return h.Name == name })
	switch {
	case at < 0:
		labels := map[string]string{appsv1.DefaultDaemonSetUniqueLabelKey: hash}
		for k, v := range ds.Spec.Template.Labels {
			labels[k] = v
		}
		err := r.Client.Create(ctx, &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: ds.Namespace, Name: name, Labels: labels, Annotations: ds.Annotations,
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ds, kind)},
			},
			Data: runtime.RawExtension{Raw: data}, Revision: newest + 1,
		})
		if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return "", err
		}
	case history[at].Revision < newest:
		back := history[at].DeepCopy()
		back.Revision = newest + 1
		if err := r.Client.Update(ctx, back); err != nil {
			return "", err
		}
	}
	excess := len(history) - int(ptr.Deref(ds.Spec.RevisionHistoryLimit, 10)) - 1
	for i := range history {
		if excess <= 0 {
			break
		}
		if history[i].Name == name {
			continue
		}
		if err := r.Client.Delete(ctx, &history[i]); crclient.IgnoreNotFound(err) != nil {
			return "", err
		}
		excess--
	}
	return hash, nil
}

// templatePatch is a revision's data: a patch that sets the template.
func templatePatch(t *corev1.PodTemplateSpec) ([]byte, error) {
	template, err := runtime.DefaultUnstructuredConverter.ToUnstructured(t)
	if err != nil {
		return nil, err
	}
	template["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
}
