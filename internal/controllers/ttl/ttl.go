// Package ttl tells kubelets, by an annotation of their Nodes, for how long
// they may keep Secrets and ConfigMaps without asking again: the longer the
// more nodes ask.
package ttl

import (
	"context"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// sizes are the times in seconds by the number of nodes. Neighbours overlap,
// so that a cluster on the border does not go back and forth.
var sizes = []struct {
	from, to, seconds int
}{
	{0, 100, 0},
	{90, 500, 15},
	{450, 1000, 30},
	{900, 2000, 60},
	{1800, 10000, 300},
	{9000, 1 << 30, 600},
}

type reconciler struct {
	controller.Deps

	mu          sync.Mutex
	nodes, size int
}

// New makes the TTL controller. Its keys are nodes.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d}
	return controller.New(d, "ttl", 2, r.reconcile,
		controller.Watch(d, &corev1.Node{}, func(q controller.Queue, old, n *corev1.Node) {
			switch {
			case old == nil:
				r.count(q, 1)
				controller.Add(q, "", n.Name)
			case n == nil:
				r.count(q, -1)
			case old.Annotations[corev1.ObjectTTLAnnotationKey] != n.Annotations[corev1.ObjectTTLAnnotationKey]:
				controller.Add(q, "", n.Name)
			}
		}))
}

// count notes that nodes came or went, and looks at all nodes if that makes a
// difference to them.
func (r *reconciler) count(q controller.Queue, by int) {
	r.mu.Lock()
	r.nodes += by
	before := r.size
	for r.nodes > sizes[r.size].to {
		r.size++
	}
	for r.nodes < sizes[r.size].from {
		r.size--
	}
	changed := r.size != before
	r.mu.Unlock()
	if !changed {
		return
	}
	var list corev1.NodeList
	if err := r.Cache.List(context.Background(), &list, crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing nodes", "error", err)
	}
	for i := range list.Items {
		controller.Add(q, "", list.Items[i].Name)
	}
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached corev1.Node
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	r.mu.Lock()
	want := strconv.Itoa(sizes[r.size].seconds)
	r.mu.Unlock()
	if cached.DeletionTimestamp != nil || cached.Annotations[corev1.ObjectTTLAnnotationKey] == want {
		return reconcile.Result{}, nil
	}
	next := cached.DeepCopy()
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.ObjectTTLAnnotationKey, want)
	return reconcile.Result{}, crclient.IgnoreNotFound(r.Client.Patch(ctx, next, crclient.MergeFrom(&cached)))
}
