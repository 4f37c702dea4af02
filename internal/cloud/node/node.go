// Package node tells the cluster what a cloud provider knows of its nodes: it
// initializes new ones and keeps their addresses (upstream's cloud-node
// controller), and takes those away whose machine is gone or shut down
// (cloud-node-lifecycle).
package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/api"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// refresh is the time between two looks at the addresses of a node.
const refresh = 5 * time.Minute

// providedIP is the annotation by which a kubelet says which address it was
// given on its command line: it must come first.
const providedIP = api.AnnotationAlphaProvidedIPAddr

type initializer struct {
	controller.Deps
	instances cloudprovider.InstancesV2
	events    record.EventRecorder
}

// NewInitializer makes the cloud-node controller.
func NewInitializer(d controller.Deps, instances cloudprovider.InstancesV2) (controller.Runnable, error) {
	r := &initializer{d, instances, d.Recorder("cloud-node-controller")}
	return controller.New(d, "cloudnode", 4, r.reconcile,
		controller.Watch(d, &corev1.Node{}, func(q controller.Queue, old, n *corev1.Node) {
			if n != nil && (old == nil || uninitialized(n) != uninitialized(old) || old.Spec.ProviderID != n.Spec.ProviderID) {
				controller.Add(q, "", n.Name)
			}
		}))
}

func uninitialized(n *corev1.Node) bool { return tainted(n, api.TaintExternalCloudProvider) }

func tainted(n *corev1.Node, key string) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key })
}

func (r *initializer) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached corev1.Node
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	node := cached.DeepCopy()
	known, err := r.instances.InstanceMetadata(ctx, node)
	switch {
	case errors.Is(err, cloudprovider.InstanceNotFound) && !uninitialized(node):
		// The lifecycle controller deals with it.
		return reconcile.Result{RequeueAfter: refresh}, nil
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("asking the cloud provider about node %s: %w", node.Name, err)
	}
	if uninitialized(node) {
		before := node.DeepCopy()
		initialize(node, known)
		if err := r.Client.Patch(ctx, node, crclient.MergeFromWithOptions(before, crclient.MergeFromWithOptimisticLock{})); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
		r.events.Event(node, corev1.EventTypeNormal, "Synced", "Node synced successfully")
	}
	next, err := addresses(node, known.NodeAddresses)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !equality.Semantic.DeepEqual(node.Status.Addresses, next) {
		node.Status.Addresses = next
		if err := r.Client.Status().Update(ctx, node); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	return reconcile.Result{RequeueAfter: refresh}, nil
}

// initialize takes over what the provider says of a new node, and opens it for
// pods.
func initialize(n *corev1.Node, known *cloudprovider.InstanceMetadata) {
	if n.Spec.ProviderID == "" {
		n.Spec.ProviderID = known.ProviderID
	}
	labels := map[string]string{}
	maps.Copy(labels, known.AdditionalLabels)
	for key, value := range map[string]string{
		corev1.LabelInstanceTypeStable: known.InstanceType, corev1.LabelInstanceType: known.InstanceType,
		corev1.LabelTopologyZone: known.Zone, corev1.LabelFailureDomainBetaZone: known.Zone,
		corev1.LabelTopologyRegion: known.Region, corev1.LabelFailureDomainBetaRegion: known.Region,
	} {
		if value != "" {
			labels[key] = value
		}
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	maps.Copy(n.Labels, labels)
	n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == api.TaintExternalCloudProvider })
}

// addresses are the provider's, the one that the kubelet was told to use
// first. A name that the provider does not know stays.
func addresses(n *corev1.Node, known []corev1.NodeAddress) ([]corev1.NodeAddress, error) {
	if len(known) == 0 {
		return n.Status.Addresses, nil
	}
	next := slices.Clone(known)
	if !slices.ContainsFunc(next, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeHostName }) {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeHostName {
				next = append(next, a)
			}
		}
	}
	wanted, ok := n.Annotations[providedIP]
	if !ok {
		return next, nil
	}
	at := slices.IndexFunc(next, func(a corev1.NodeAddress) bool { return a.Address == wanted })
	if at < 0 {
		return nil, fmt.Errorf("node %s was told to use the address %s, which the cloud provider does not know as one of its", n.Name, wanted)
	}
	first := next[at]
	return append([]corev1.NodeAddress{first}, slices.Delete(next, at, at+1)...), nil
}
