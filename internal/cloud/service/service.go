// Package service gives Services of type LoadBalancer what a cloud provider has
// for them, and takes it back: upstream's service controller.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/api"
	"k8s.io/cloud-provider/service/helpers"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/client"
	"skiff/internal/cloud"
)

// Config is what a Controller needs.
type Config struct {
	Client   client.Set
	Balancer cloudprovider.LoadBalancer
	// ClusterName is passed to the provider; empty means kubernetes.
	ClusterName string
	Log         *slog.Logger
	// Workers is how many Services are worked on at once (default 1, as a
	// provider may be slow set more for a real cloud).
	Workers int
}

// Controller is the service controller.
type Controller struct {
	Config
	events record.EventRecorder
	queue  workqueue.TypedRateLimitingInterface[reconcile.Request]
	// always is set for balancers that are to be asked at every change.
	always bool

	mu struct {
		sync.Mutex
		// served is what the balancer was told last of each Service.
		served map[types.NamespacedName]*served
	}
}

var _ reconcile.Reconciler = (*Controller)(nil)

// New returns a Controller that does not run yet.
func New(c Config) *Controller {
	if c.ClusterName == "" {
		c.ClusterName = "kubernetes"
	}
	if c.Workers == 0 {
		c.Workers = 1
	}
	_, always := c.Balancer.(cloud.NodeAddresser)
	made := &Controller{
		Config: c,
		events: c.Client.Recorder("service-controller"),
		queue:  workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]()),
		always: always,
	}
	made.mu.served = map[types.NamespacedName]*served{}
	return made
}

// Start runs the controller until ctx ends. It returns an error only if it
// cannot watch.
func (c *Controller) Start(ctx context.Context) error {
	if err := c.watch(ctx); err != nil {
		return err
	}
	context.AfterFunc(ctx, c.queue.ShutDown)
	var workers sync.WaitGroup
	for range c.Workers {
		workers.Go(func() {
			for c.next(ctx) {
			}
		})
	}
	workers.Wait()
	return nil
}

func (c *Controller) next(ctx context.Context) bool {
	req, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(req)
	if _, err := c.Reconcile(ctx, req); err != nil {
		if later := (*api.RetryError)(nil); errors.As(err, &later) {
			c.queue.Forget(req)
			c.queue.AddAfter(req, later.RetryAfter())
			return true
		}
		if ctx.Err() == nil {
			c.Log.Warn("load balancer not as wanted, trying again", "service", req.NamespacedName, "err", err)
		}
		c.queue.AddRateLimited(req)
		return true
	}
	c.queue.Forget(req)
	return true
}

// Reconcile brings one Service's load balancer to what its spec says.
func (c *Controller) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	svc := &corev1.Service{}
	if err := c.Client.Cache.Get(ctx, req.NamespacedName, svc); err != nil {
		// Without the finalizer there was no load balancer.
		c.forget(req.NamespacedName)
		return reconcile.Result{}, ctrlclient.IgnoreNotFound(err)
	}
	if !wanted(svc) {
		c.forget(req.NamespacedName)
		return reconcile.Result{}, c.remove(ctx, svc)
	}
	err := c.ensure(ctx, svc)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, err
}

// wanted says whether svc shall have a load balancer of the default class.
func wanted(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil && svc.DeletionTimestamp == nil
}

func (c *Controller) ensure(ctx context.Context, svc *corev1.Service) error {
	svc, err := c.addFinalizer(ctx, svc)
	if err != nil {
		return err
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	if known := c.known(svc); known != nil {
		return c.updateHosts(ctx, svc, known, nodes)
	}
	if len(nodes) == 0 {
		c.warnOfNoNodes(svc)
	}
	if !c.always || len(svc.Status.LoadBalancer.Ingress) == 0 {
		c.events.Event(svc, corev1.EventTypeNormal, "EnsuringLoadBalancer", "Ensuring load balancer")
	}
	status, err := c.Balancer.EnsureLoadBalancer(ctx, c.ClusterName, svc, nodes)
	switch {
	case errors.Is(err, cloudprovider.ImplementedElsewhere):
		return nil
	case errors.Is(err, cloud.ErrPending):
		c.events.Eventf(svc, corev1.EventTypeWarning, "SyncLoadBalancerFailed", "Error syncing load balancer: failed to ensure load balancer: %v", err)
		_, err := c.setStatus(ctx, svc, &corev1.LoadBalancerStatus{})
		return err
	case err != nil:
		c.events.Eventf(svc, corev1.EventTypeWarning, "SyncLoadBalancerFailed", "Error syncing load balancer: failed to ensure load balancer: %v", err)
		return fmt.Errorf("ensure load balancer: %w", err)
	}
	changed, err := c.setStatus(ctx, svc, status)
	if err != nil {
		return err
	}
	c.remember(svc, nodes)
	if !c.always || changed {
		c.events.Event(svc, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
	}
	return nil
}

// remove takes the load balancer of a Service that has one but must not.
func (c *Controller) remove(ctx context.Context, svc *corev1.Service) error {
	if !helpers.HasLBFinalizer(svc) {
		return nil
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass != nil && svc.DeletionTimestamp == nil {
		return nil // Another controller's.
	}
	_, exists, err := c.Balancer.GetLoadBalancer(ctx, c.ClusterName, svc)
	if err != nil && !errors.Is(err, cloudprovider.ImplementedElsewhere) {
		return fmt.Errorf("look for load balancer: %w", err)
	}
	if exists {
		c.events.Event(svc, corev1.EventTypeNormal, "DeletingLoadBalancer", "Deleting load balancer")
		err := c.Balancer.EnsureLoadBalancerDeleted(ctx, c.ClusterName, svc)
		if err != nil && !errors.Is(err, cloudprovider.ImplementedElsewhere) {
			c.events.Eventf(svc, corev1.EventTypeWarning, "SyncLoadBalancerFailed", "Error syncing load balancer: failed to delete load balancer: %v", err)
			return fmt.Errorf("delete load balancer: %w", err)
		}
	}
	if _, err := c.setStatus(ctx, svc, &corev1.LoadBalancerStatus{}); err != nil {
		return ctrlclient.IgnoreNotFound(err)
	}
	without := svc.DeepCopy()
	controllerutil.RemoveFinalizer(without, helpers.LoadBalancerCleanupFinalizer)
	err = c.Client.Client.Status().Patch(ctx, without, ctrlclient.MergeFromWithOptions(svc, ctrlclient.MergeFromWithOptimisticLock{}))
	if err == nil {
		c.events.Event(svc, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")
	}
	return ctrlclient.IgnoreNotFound(err)
}

// addFinalizer keeps the Service until its load balancer is gone, and returns
// it as it is then.
func (c *Controller) addFinalizer(ctx context.Context, svc *corev1.Service) (*corev1.Service, error) {
	if helpers.HasLBFinalizer(svc) {
		return svc, nil
	}
	with := svc.DeepCopy()
	controllerutil.AddFinalizer(with, helpers.LoadBalancerCleanupFinalizer)
	// The list of finalizers is replaced as a whole, so nobody may have changed
	// it meanwhile.
	err := c.Client.Client.Status().Patch(ctx, with, ctrlclient.MergeFromWithOptions(svc, ctrlclient.MergeFromWithOptimisticLock{}))
	return with, err
}

// setStatus writes the load balancer's status if it is another one.
func (c *Controller) setStatus(ctx context.Context, svc *corev1.Service, status *corev1.LoadBalancerStatus) (changed bool, err error) {
	if helpers.LoadBalancerStatusEqual(&svc.Status.LoadBalancer, status) {
		return false, nil
	}
	now := svc.DeepCopy()
	now.Status.LoadBalancer = *status
	err = c.Client.Client.Status().Patch(ctx, now, ctrlclient.MergeFrom(svc))
	if err == nil {
		// A patch of the finalizers that follows builds on this revision.
		svc.ResourceVersion = now.ResourceVersion
		svc.Status = now.Status
	}
	return err == nil, err
}

// nodes returns the nodes that may take part in load balancers.
func (c *Controller) nodes(ctx context.Context) ([]*corev1.Node, error) {
	var all corev1.NodeList
	if err := c.Client.Cache.List(ctx, &all); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var out []*corev1.Node
	for i := range all.Items {
		if eligible(&all.Items[i]) {
			out = append(out, &all.Items[i])
		}
	}
	return out, nil
}

// eligible says whether a node may take part: upstream's label excludes it, as
// does the autoscaler's mark that it goes soon.
func eligible(n *corev1.Node) bool {
	if _, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]; excluded {
		return false
	}
	return !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "ToBeDeletedByClusterAutoscaler" })
}

func (c *Controller) watch(ctx context.Context) error {
	for _, w := range []struct {
		obj     ctrlclient.Object
		handler toolscache.ResourceEventHandlerFuncs
	}{
		{&corev1.Service{}, toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) { c.changed(ctx, nil, o) },
			UpdateFunc: func(old, o any) {
				if before, ok := old.(*corev1.Service); ok {
					c.changed(ctx, before, o)
				}
			},
			DeleteFunc: func(any) { c.all(ctx) },
		}},
		{&corev1.Node{}, toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { c.all(ctx) },
			UpdateFunc: func(old, o any) {
				before, ok1 := old.(*corev1.Node)
				now, ok2 := o.(*corev1.Node)
				if ok1 && ok2 && matters(before, now) {
					c.all(ctx)
				}
			},
			DeleteFunc: func(any) { c.all(ctx) },
		}},
		{&discoveryv1.EndpointSlice{}, toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { c.endpoints(ctx, o) },
			UpdateFunc: func(_, o any) { c.endpoints(ctx, o) },
			DeleteFunc: func(o any) { c.endpoints(ctx, o) },
		}},
	} {
		informer, err := c.Client.Cache.GetInformer(ctx, w.obj)
		if err != nil {
			return fmt.Errorf("watch for load balancers: %w", err)
		}
		registration, err := informer.AddEventHandler(w.handler)
		if err != nil {
			return fmt.Errorf("watch for load balancers: %w", err)
		}
		context.AfterFunc(ctx, func() { _ = informer.RemoveEventHandler(registration) })
	}
	return nil
}

// changed takes in a new or changed Service. Another one may have waited for a
// port that it has given up.
func (c *Controller) changed(ctx context.Context, before *corev1.Service, obj any) {
	now, ok := obj.(*corev1.Service)
	if !ok {
		return
	}
	if wanted(now) || helpers.HasLBFinalizer(now) {
		c.queue.Add(request(now))
	}
	if before != nil && wanted(before) && (!wanted(now) || !equality.Semantic.DeepEqual(before.Spec.Ports, now.Spec.Ports)) {
		c.all(ctx)
	}
}

// endpoints looks again at a Service for which it matters where its endpoints
// are.
func (c *Controller) endpoints(ctx context.Context, obj any) {
	if unknown, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return
	}
	svc := &corev1.Service{}
	name := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
	if err := c.Client.Cache.Get(ctx, name, svc); err != nil {
		return // The Service's own event comes later.
	}
	if wanted(svc) && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		c.queue.Add(request(svc))
	}
}

// all looks again at every Service with a load balancer.
func (c *Controller) all(ctx context.Context) {
	var list corev1.ServiceList
	if err := c.Client.Cache.List(ctx, &list); err != nil {
		if ctx.Err() == nil {
			c.Log.Error("services not listed", "err", err)
		}
		return
	}
	for i := range list.Items {
		if wanted(&list.Items[i]) {
			c.queue.Add(request(&list.Items[i]))
		}
	}
}

func request(svc *corev1.Service) reconcile.Request {
	return reconcile.Request{NamespacedName: ctrlclient.ObjectKeyFromObject(svc)}
}

// matters tells changes of a node that load balancers depend on from
// heartbeats.
func matters(before, now *corev1.Node) bool {
	isReady := func(n *corev1.Node) bool {
		return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
	}
	return isReady(before) != isReady(now) || eligible(before) != eligible(now) ||
		(before.DeletionTimestamp == nil) != (now.DeletionTimestamp == nil) ||
		!equality.Semantic.DeepEqual(before.Status.Addresses, now.Status.Addresses)
}
