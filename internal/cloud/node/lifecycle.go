package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/api"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// monitor is the time between two questions about a node that is not ready.
const monitor = 5 * time.Second

type lifecycle struct {
	controller.Deps
	instances cloudprovider.InstancesV2
	events    record.EventRecorder
}

// NewLifecycle makes the cloud-node-lifecycle controller. The provider is asked
// only about nodes that are not ready.
func NewLifecycle(d controller.Deps, instances cloudprovider.InstancesV2) (controller.Runnable, error) {
	r := &lifecycle{d, instances, d.Recorder("cloud-node-lifecycle-controller")}
	return controller.New(d, "cloudnodelifecycle", 4, r.reconcile,
		controller.Watch(d, &corev1.Node{}, func(q controller.Queue, old, n *corev1.Node) {
			if n != nil && (old == nil || ready(old) != ready(n)) {
				controller.Add(q, "", n.Name)
			}
		}))
}

// ready returns the status of the node's readiness; a node that never said
// anything has none.
func ready(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

func (r *lifecycle) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var node corev1.Node
	if err := r.Cache.Get(ctx, key, &node, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	switch ready(&node) {
	case corev1.ConditionTrue:
		return reconcile.Result{}, r.setShutdown(ctx, &node, false)
	case "":
		// It does not run yet; who has never been ready is not missed.
		return reconcile.Result{}, nil
	}
	exists, err := r.instances.InstanceExists(ctx, node.DeepCopy())
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("asking the cloud provider whether node %s exists: %w", node.Name, err)
	}
	if !exists {
		r.events.Eventf(&node, corev1.EventTypeNormal, "DeletingNode", "Deleting node %s because it does not exist in the cloud provider", node.Name)
		return reconcile.Result{}, crclient.IgnoreNotFound(r.Client.Delete(ctx, &node, crclient.Preconditions{UID: &node.UID}))
	}
	shutdown, err := r.instances.InstanceShutdown(ctx, node.DeepCopy())
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("asking the cloud provider whether node %s is shut down: %w", node.Name, err)
	}
	if err := r.setShutdown(ctx, &node, shutdown); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: monitor}, nil
}

// setShutdown adds or removes the taint of nodes that are shut down.
func (r *lifecycle) setShutdown(ctx context.Context, cached *corev1.Node, shutdown bool) error {
	if tainted(cached, api.TaintNodeShutdown) == shutdown {
		return nil
	}
	node := cached.DeepCopy()
	if shutdown {
		now := metav1.NewTime(r.Clock.Now())
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: api.TaintNodeShutdown, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &now})
	} else {
		node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == api.TaintNodeShutdown })
	}
	err := r.Client.Patch(ctx, node, crclient.MergeFromWithOptions(cached, crclient.MergeFromWithOptimisticLock{}))
	return crclient.IgnoreNotFound(err)
}
