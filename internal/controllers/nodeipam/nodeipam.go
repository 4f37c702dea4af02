// Package nodeipam gives every node its ranges of pod addresses, one from each
// cluster CIDR.
package nodeipam

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
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

	mu   sync.Mutex
	sets []*cidrSet
	// nodes are the ranges of every node, also those that the cache does not
	// show yet.
	nodes map[string][]netip.Prefix
}

// New makes the node IPAM controller.
func New(d controller.Deps, o Options) (controller.Runnable, error) {
	r := &reconciler{Deps: d, events: d.Recorder("cidrAllocator"), nodes: map[string][]netip.Prefix{}}
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
	return controller.New(d, "nodeipam", 1, r.reconcile, controller.Watch(d, &corev1.Node{}, r.nodeChanged))
}

func (r *reconciler) nodeChanged(q controller.Queue, old, node *corev1.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if node == nil {
		for _, p := range r.nodes[old.Name] {
			for _, s := range r.sets {
				s.release(p)
			}
		}
		delete(r.nodes, old.Name)
		return
	}
	if len(node.Spec.PodCIDRs) == 0 {
		controller.Add(q, "", node.Name)
		return
	}
	if len(r.nodes[node.Name]) > 0 {
		return
	}
	for _, text := range node.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			r.Log.Error("a node has an invalid pod CIDR", "node", node.Name, "cidr", text, "error", err)
			continue
		}
		r.nodes[node.Name] = append(r.nodes[node.Name], p)
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
	ranges, err := r.allocate(key.Name)
	if err != nil {
		r.events.Eventf(&cached, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: %s", key.Name, "CIDRNotAvailable")
		return reconcile.Result{}, fmt.Errorf("node %s: %w", key.Name, err)
	}
	node := cached.DeepCopy()
	for _, p := range ranges {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, p.String())
	}
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	err = r.Client.Patch(ctx, node, crclient.StrategicMergeFrom(&cached))
	return reconcile.Result{}, crclient.IgnoreNotFound(err)
}

// allocate returns the node's ranges, taking new ones if it has none.
func (r *reconciler) allocate(node string) ([]netip.Prefix, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have := r.nodes[node]; len(have) > 0 {
		return have, nil
	}
	var taken []netip.Prefix
	for _, s := range r.sets {
		p, err := s.allocate()
		if err != nil {
			for i, p := range taken {
				r.sets[i].release(p)
			}
			return nil, err
		}
		taken = append(taken, p)
	}
	r.nodes[node] = taken
	return taken, nil
}
