// Package nodeipam gives every node its ranges of pod addresses, one from each
// cluster CIDR.
package nodeipam

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// Options say what is divided.
type Options struct {
	// ClusterCIDRs are one range, or one for each address family.
	ClusterCIDRs []netip.Prefix
	// MaskSizeIPv4 and MaskSizeIPv6 are the prefix lengths of a node's ranges;
	// 0 means 24 and 64.
	MaskSizeIPv4, MaskSizeIPv6 int
	// Reserved ranges (those of Services) are not handed out.
	Reserved []netip.Prefix
}

type reconciler struct {
	controller.Deps
	events record.EventRecorder
	queue  controller.Queue

	mu   sync.Mutex
	sets []*cidrSet
	// nodes are the ranges of every node, also those that the cache does not
	// show yet.
	nodes map[string][]netip.Prefix
	// waiting are the nodes that found all ranges taken: each has been told so.
	waiting map[string]bool
}

// New makes the node IPAM controller.
func New(d controller.Deps, o Options) (controller.Runnable, error) {
	r := &reconciler{Deps: d, events: d.Recorder("cidrAllocator"), nodes: map[string][]netip.Prefix{}, waiting: map[string]bool{}}
	for _, cidr := range o.ClusterCIDRs {
		bits := cmp.Or(o.MaskSizeIPv4, 24)
		if cidr.Addr().Is6() {
			bits = cmp.Or(o.MaskSizeIPv6, 64)
		}
		set, err := newCIDRSet(cidr, bits)
		if err != nil {
			return nil, err
		}
		for _, p := range o.Reserved {
			set.occupy(p)
		}
		r.sets = append(r.sets, set)
	}
	// All nodes' events are handled before the first reconcile, so that no
	// range in use is handed out.
	return controller.New(d, "nodeipam", 1, r.reconcile,
		controller.Capture(func(q controller.Queue) { r.queue = q }),
		controller.Watch(d, &corev1.Node{}, r.nodeChanged))
}

func (r *reconciler) nodeChanged(q controller.Queue, old, node *corev1.Node) {
	switch {
	case node == nil:
		r.release(old.Name)
	case len(node.Spec.PodCIDRs) == 0:
		controller.Add(q, "", node.Name)
	default:
		r.occupy(node)
	}
}

// release gives a node's ranges back, and has those tried again that wait for
// one.
func (r *reconciler) release(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, node)
	if len(r.nodes[node]) == 0 {
		return
	}
	r.forget(node)
	for name := range r.waiting {
		controller.Add(r.queue, "", name)
	}
}

// forget frees a node's ranges.
func (r *reconciler) forget(node string) {
	for _, p := range r.nodes[node] {
		for _, s := range r.sets {
			s.release(p)
		}
	}
	delete(r.nodes, node)
}

// occupy takes the ranges that a node has.
func (r *reconciler) occupy(node *corev1.Node) {
	var ranges []netip.Prefix
	for _, text := range node.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			r.Log.Error("a node has an invalid pod CIDR", "node", node.Name, "cidr", text, "error", err)
			continue
		}
		ranges = append(ranges, p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, node.Name)
	if slices.Equal(r.nodes[node.Name], ranges) {
		return
	}
	r.forget(node.Name)
	r.nodes[node.Name] = ranges
	for _, p := range ranges {
		for _, s := range r.sets {
			s.occupy(p)
		}
	}
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached corev1.Node
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if len(cached.Spec.PodCIDRs) > 0 || cached.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	ranges, news := r.allocate(key.Name)
	if ranges == nil {
		if news {
			r.Log.Warn("a node gets no pod CIDR: all are taken", "node", key.Name)
			r.events.Eventf(&cached, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: %s", key.Name, "CIDRNotAvailable")
		}
		return reconcile.Result{}, nil
	}
	node := cached.DeepCopy()
	for _, p := range ranges {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, p.String())
	}
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	err := r.Client.Patch(ctx, node, crclient.StrategicMergeFrom(&cached))
	if apierrors.IsNotFound(err) {
		// It may have gone before it had them.
		r.release(key.Name)
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, err
}

// allocate returns the node's ranges, taking new ones if it has none. If there
// are none left it waits for some to be given back; news says that it did not
// wait before.
func (r *reconciler) allocate(node string) (ranges []netip.Prefix, news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have := r.nodes[node]; len(have) > 0 {
		return have, false
	}
	for _, s := range r.sets {
		p, ok := s.allocate()
		if !ok {
			for j, p := range ranges {
				r.sets[j].release(p)
			}
			news = !r.waiting[node]
			r.waiting[node] = true
			return nil, news
		}
		ranges = append(ranges, p)
	}
	delete(r.waiting, node)
	r.nodes[node] = ranges
	return ranges, false
}
