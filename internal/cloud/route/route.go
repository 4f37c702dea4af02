// Package route has a cloud provider route each node's pods to it (upstream's
// route controller), and says of every node whether that is so.
package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// refresh is the time after which the provider's routes are read again though
// no node changed.
const refresh = 10 * time.Minute

// Options say which routes are the cluster's.
type Options struct {
	ClusterName string
	// ClusterCIDRs hold all pods: routes into them that no node needs are
	// removed.
	ClusterCIDRs []netip.Prefix
}

type reconciler struct {
	controller.Deps
	Options
	routes cloudprovider.Routes
	events record.EventRecorder
}

// New makes the route controller. It has one key: all routes.
func New(d controller.Deps, routes cloudprovider.Routes, o Options) (controller.Runnable, error) {
	r := &reconciler{d, o, routes, d.Recorder("route_controller")}
	return controller.New(d, "route", 1, r.reconcile,
		controller.Watch(d, &corev1.Node{}, func(q controller.Queue, old, n *corev1.Node) {
			if old == nil || n == nil || !slices.Equal(old.Spec.PodCIDRs, n.Spec.PodCIDRs) || !equality.Semantic.DeepEqual(old.Status.Addresses, n.Status.Addresses) {
				q.Add(controller.Request{})
			}
		}))
}

func (r *reconciler) reconcile(ctx context.Context, _ types.NamespacedName) (reconcile.Result, error) {
	existing, err := r.routes.ListRoutes(ctx, r.ClusterName)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("listing the cloud provider's routes: %w", err)
	}
	var nodes corev1.NodeList
	if err := r.Cache.List(ctx, &nodes, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	// A provider may know routes by their destination: what leads elsewhere goes
	// before what is to come.
	problems := r.removeOthers(ctx, nodes.Items, existing)
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if len(n.Spec.PodCIDRs) == 0 {
			continue
		}
		err := r.ensure(ctx, n, existing)
		problems = append(problems, err, r.setCondition(ctx, n, err == nil))
	}
	if err := errors.Join(problems...); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: refresh}, nil
}

// removeOthers removes the cluster's routes that no node needs.
func (r *reconciler) removeOthers(ctx context.Context, nodes []corev1.Node, existing []*cloudprovider.Route) (problems []error) {
	needed := map[string]bool{}
	for i := range nodes {
		for _, cidr := range nodes[i].Spec.PodCIDRs {
			needed[nodes[i].Name+" "+cidr] = true
		}
	}
	for _, route := range existing {
		if needed[keyOf(route)] && !route.Blackhole || !r.ours(route) {
			continue
		}
		if err := r.routes.DeleteRoute(ctx, r.ClusterName, route); err != nil {
			problems = append(problems, fmt.Errorf("removing the route to %s: %w", route.DestinationCIDR, err))
		}
	}
	return problems
}

func keyOf(r *cloudprovider.Route) string { return string(r.TargetNode) + " " + r.DestinationCIDR }

// ours reports whether a route is into the cluster's pods.
func (r *reconciler) ours(route *cloudprovider.Route) bool {
	p, err := netip.ParsePrefix(route.DestinationCIDR)
	return err == nil && (route.Blackhole || slices.ContainsFunc(r.ClusterCIDRs, func(c netip.Prefix) bool {
		return c.Bits() <= p.Bits() && c.Contains(p.Addr())
	}))
}

// ensure makes the routes to a node that are missing.
func (r *reconciler) ensure(ctx context.Context, n *corev1.Node, existing []*cloudprovider.Route) error {
	var problems []error
	for _, cidr := range n.Spec.PodCIDRs {
		want := &cloudprovider.Route{TargetNode: types.NodeName(n.Name), DestinationCIDR: cidr, TargetNodeAddresses: n.Status.Addresses}
		if slices.ContainsFunc(existing, func(have *cloudprovider.Route) bool { return keyOf(have) == keyOf(want) && !have.Blackhole }) {
			continue
		}
		if err := r.routes.CreateRoute(ctx, r.ClusterName, string(n.UID), want); err != nil {
			r.events.Eventf(n, corev1.EventTypeWarning, "FailedToCreateRoute", "Could not create route %s %s for node %s: %v", n.UID, cidr, n.Name, err)
			problems = append(problems, fmt.Errorf("making the route to %s of node %s: %w", cidr, n.Name, err))
		}
	}
	return errors.Join(problems...)
}

// setCondition says whether the node's pods can be reached.
func (r *reconciler) setCondition(ctx context.Context, cached *corev1.Node, routed bool) error {
	want := corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: "RouteCreated", Message: "RouteController created a route"}
	if !routed {
		want.Status, want.Reason, want.Message = corev1.ConditionTrue, "NoRouteCreated", "RouteController failed to create a route"
	}
	now := metav1.NewTime(r.Clock.Now())
	want.LastHeartbeatTime, want.LastTransitionTime = now, now
	node := cached.DeepCopy()
	at := slices.IndexFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == want.Type })
	switch {
	case at < 0:
		node.Status.Conditions = append(node.Status.Conditions, want)
	case node.Status.Conditions[at].Status == want.Status && node.Status.Conditions[at].Reason == want.Reason:
		return nil
	default:
		node.Status.Conditions[at] = want
	}
	return crclient.IgnoreNotFound(r.Client.Status().Patch(ctx, node, crclient.StrategicMergeFrom(cached)))
}
