// Package namespace empties namespaces that are being deleted: pods first
// (KEP-5080), then everything else, and then lets the namespace go.
package namespace

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

const workers = 5

// recheck is how long to wait for content that cannot be watched.
const recheck = 5 * time.Second

type reconciler struct {
	controller.Deps
	discover controller.Discover
	waits    waits
}

// New makes the namespace controller.
func New(d controller.Deps, discover controller.Discover) (controller.Runnable, error) {
	r := &reconciler{Deps: d, discover: discover}
	return controller.New(d, "namespace", workers, r.reconcile,
		controller.Capture(func(q controller.Queue) { r.waits.queue = q }),
		controller.WatchSelf(d, &corev1.Namespace{}))
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached corev1.Namespace
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if cached.DeletionTimestamp == nil || len(cached.Spec.Finalizers) == 0 {
		return reconcile.Result{}, nil
	}
	ns := cached.DeepCopy()
	var found content
	err := r.empty(ctx, ns.Name, &found)
	ns.Status.Phase = corev1.NamespaceTerminating
	found.conditions(&ns.Status, metav1.NewTime(r.Clock.Now()))
	if !apiequality.Semantic.DeepEqual(cached.Status, ns.Status) {
		if err := r.Client.Status().Update(ctx, ns); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	switch {
	case err != nil:
		return reconcile.Result{}, err
	case len(found.remaining) > 0:
		if err := r.waits.until(ctx, r.Client, ns.Name, found.first); err != nil {
			r.Log.Debug("what is left in a namespace cannot be watched", "namespace", ns.Name, "error", err)
			return reconcile.Result{RequeueAfter: recheck}, nil
		}
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, r.finalize(ctx, ns)
}

// finalize gives up the namespace. It goes when nobody else holds it.
func (r *reconciler) finalize(ctx context.Context, ns *corev1.Namespace) error {
	var others []corev1.FinalizerName
	for _, f := range ns.Spec.Finalizers {
		if f != corev1.FinalizerKubernetes {
			others = append(others, f)
		}
	}
	if len(others) == len(ns.Spec.Finalizers) {
		return nil
	}
	ns.Spec.Finalizers = others
	return crclient.IgnoreNotFound(r.Client.SubResource("finalize").Update(ctx, ns))
}

// empty deletes what is in the namespace and notes in found what stays.
func (r *reconciler) empty(ctx context.Context, ns string, found *content) error {
	all, err := r.discover.List(ctx, "list", "delete")
	if err != nil {
		found.discovery = err
	}
	var rest []controller.Resource
	for _, resource := range all {
		switch {
		case !resource.Namespaced:
		case resource.Group == "" && resource.Resource == "pods":
			r.delete(ctx, ns, resource, found)
		default:
			rest = append(rest, resource)
		}
	}
	if len(found.remaining) == 0 && len(found.failures) == 0 {
		for _, resource := range rest {
			r.delete(ctx, ns, resource, found)
		}
	}
	return found.err()
}

func (r *reconciler) delete(ctx context.Context, ns string, resource controller.Resource, found *content) {
	list := func() (*metav1.PartialObjectMetadataList, bool) {
		l := resource.MetadataList()
		err := r.Client.List(ctx, l, crclient.InNamespace(ns))
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			return nil, false
		}
		if err != nil {
			found.failures = append(found.failures, err)
			return nil, false
		}
		return l, len(l.Items) > 0
	}
	before, some := list()
	if !some {
		return
	}
	if !slices.ContainsFunc(before.Items, func(o metav1.PartialObjectMetadata) bool { return o.DeletionTimestamp == nil }) {
		found.remain(resource, before)
		return
	}
	err := r.Client.DeleteAllOf(ctx, resource.Metadata(), crclient.InNamespace(ns), crclient.PropagationPolicy(metav1.DeletePropagationBackground))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsMethodNotSupported(err) {
		found.failures = append(found.failures, err)
		return
	}
	left, some := list()
	if !some {
		return
	}
	if apierrors.IsMethodNotSupported(err) {
		for i := range left.Items {
			if err := r.Client.Delete(ctx, &left.Items[i], crclient.PropagationPolicy(metav1.DeletePropagationBackground)); crclient.IgnoreNotFound(err) != nil {
				found.failures = append(found.failures, err)
			}
		}
		if left, some = list(); !some {
			return
		}
	}
	found.remain(resource, left)
}
