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

	mu sync.Mutex
	// nodes are the names of those that there are.
	nodes map[string]struct{}
	size  int
}

// New makes the TTL controller. Its keys are nodes.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, nodes: map[string]struct{}{}}
	return controller.New(d, "ttl", 2, r.reconcile, controller.Watch(d, &corev1.Node{}, r.see))
}

// see looks at a node that changed. What it was before does not count: when
// events were missed, that is not what the annotation was last.
func (r *reconciler) see(q controller.Queue, old, n *corev1.Node) {
	r.mu.Lock()
	if n == nil {
		delete(r.nodes, old.Name)
	} else {
		r.nodes[n.Name] = struct{}{}
	}
	before := r.size
	for len(r.nodes) > sizes[r.size].to {
		r.size++
	}
	for len(r.nodes) < sizes[r.size].from {
		r.size--
	}
	changed := r.size != before
	want := r.wantLocked()
	r.mu.Unlock()
	if n != nil && n.Annotations[corev1.ObjectTTLAnnotationKey] != want {
		controller.Add(q, "", n.Name)
	}
	if changed {
		r.lookAtAll(q)
	}
}

func (r *reconciler) wantLocked() string { return strconv.Itoa(sizes[r.size].seconds) }

func (r *reconciler) lookAtAll(q controller.Queue) {
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
	want := r.wantLocked()
	r.mu.Unlock()
	if cached.DeletionTimestamp != nil || cached.Annotations[corev1.ObjectTTLAnnotationKey] == want {
		return reconcile.Result{}, nil
	}
	next := cached.DeepCopy()
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.ObjectTTLAnnotationKey, want)
	return reconcile.Result{}, crclient.IgnoreNotFound(r.Client.Patch(ctx, next, crclient.MergeFrom(&cached)))
}
