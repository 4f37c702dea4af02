// Package cloudtest has a cloud provider for tests: a cloud in memory with load
// balancers, instances and routes.
package cloudtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"
)

// Cloud is the provider.
type Cloud struct {
	mu sync.Mutex
	// balancers are the hosts by Services, as namespace/name.
	balancers map[string][]string
	calls     []string
	routes    map[string]*cloudprovider.Route
	fail      error
	started   int
	changed   func()
}

var (
	_ cloudprovider.Interface    = (*Cloud)(nil)
	_ cloudprovider.LoadBalancer = (*Cloud)(nil)
	_ cloudprovider.InstancesV2  = (*Cloud)(nil)
	_ cloudprovider.Routes       = (*Cloud)(nil)
)

// New returns an empty cloud.
func New() *Cloud {
	return &Cloud{balancers: map[string][]string{}, routes: map[string]*cloudprovider.Route{}, changed: func() {}}
}

// Calls returns what load balancers were asked to do, as "verb namespace/name
// hosts".
func (c *Cloud) Calls() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// OnChange has f called after every change. It must not call the cloud.
func (c *Cloud) OnChange(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = f
}

// Balancers returns the hosts of each load balancer, by namespace/name.
func (c *Cloud) Balancers() map[string][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.balancers)
}

// Targets returns the nodes that routes lead to, by their destinations.
func (c *Cloud) Targets() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	targets := map[string]string{}
	for destination, r := range c.routes {
		targets[destination] = string(r.TargetNode)
	}
	return targets
}

// Fail makes changes fail, until err is nil.
func (c *Cloud) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = err
}

// Started is how often controllers were started with the provider.
func (c *Cloud) Started() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started
}

func (c *Cloud) change(verb string, svc *corev1.Service, nodes []*corev1.Node) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := svc.Namespace + "/" + svc.Name
	hosts := make([]string, len(nodes))
	for i, n := range nodes {
		hosts[i] = n.Name
	}
	slices.Sort(hosts)
	c.calls = append(c.calls, fmt.Sprint(verb, " ", key, " ", hosts))
	defer c.changed()
	switch {
	case c.fail != nil:
		return c.fail
	case verb == "delete":
		delete(c.balancers, key)
	default:
		c.balancers[key] = hosts
	}
	return nil
}

// status is the same for all.
func status() *corev1.LoadBalancerStatus {
	return &corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}}}
}

// Initialize implements cloudprovider.Interface.
func (c *Cloud) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started++
}

// LoadBalancer implements cloudprovider.Interface.
func (c *Cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return c, true }

// Instances implements cloudprovider.Interface.
func (c *Cloud) Instances() (cloudprovider.Instances, bool) { return nil, false }

// InstancesV2 implements cloudprovider.Interface.
func (c *Cloud) InstancesV2() (cloudprovider.InstancesV2, bool) { return c, true }

// Zones implements cloudprovider.Interface.
func (c *Cloud) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters implements cloudprovider.Interface.
func (c *Cloud) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes implements cloudprovider.Interface.
func (c *Cloud) Routes() (cloudprovider.Routes, bool) { return c, true }

// ProviderName implements cloudprovider.Interface.
func (c *Cloud) ProviderName() string { return "memory" }

// HasClusterID implements cloudprovider.Interface.
func (c *Cloud) HasClusterID() bool { return true }

// GetLoadBalancer implements cloudprovider.LoadBalancer.
func (c *Cloud) GetLoadBalancer(_ context.Context, _ string, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, exists := c.balancers[svc.Namespace+"/"+svc.Name]
	return status(), exists, nil
}

// GetLoadBalancerName implements cloudprovider.LoadBalancer.
func (c *Cloud) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return cloudprovider.DefaultLoadBalancerName(svc)
}

// EnsureLoadBalancer implements cloudprovider.LoadBalancer.
func (c *Cloud) EnsureLoadBalancer(_ context.Context, _ string, svc *corev1.Service, nodes []*corev1.Node) (*corev1.LoadBalancerStatus, error) {
	return status(), c.change("ensure", svc, nodes)
}

// UpdateLoadBalancer implements cloudprovider.LoadBalancer.
func (c *Cloud) UpdateLoadBalancer(_ context.Context, _ string, svc *corev1.Service, nodes []*corev1.Node) error {
	return c.change("update", svc, nodes)
}

// EnsureLoadBalancerDeleted implements cloudprovider.LoadBalancer.
func (c *Cloud) EnsureLoadBalancerDeleted(_ context.Context, _ string, svc *corev1.Service) error {
	return c.change("delete", svc, nil)
}

// InstanceExists implements cloudprovider.InstancesV2.
func (c *Cloud) InstanceExists(context.Context, *corev1.Node) (bool, error) { return true, nil }

// InstanceShutdown implements cloudprovider.InstancesV2.
func (c *Cloud) InstanceShutdown(context.Context, *corev1.Node) (bool, error) { return false, nil }

// InstanceMetadata implements cloudprovider.InstancesV2.
func (c *Cloud) InstanceMetadata(_ context.Context, n *corev1.Node) (*cloudprovider.InstanceMetadata, error) {
	return &cloudprovider.InstanceMetadata{
		ProviderID: "memory://" + n.Name, InstanceType: "large", Zone: "z", Region: "r",
		NodeAddresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}},
	}, nil
}

// ListRoutes implements cloudprovider.Routes.
func (c *Cloud) ListRoutes(context.Context, string) ([]*cloudprovider.Route, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*cloudprovider.Route
	for _, r := range c.routes {
		all = append(all, r)
	}
	return all, nil
}

// CreateRoute implements cloudprovider.Routes.
func (c *Cloud) CreateRoute(_ context.Context, _, hint string, r *cloudprovider.Route) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail
	}
	defer c.changed()
	made := *r
	made.Name = hint
	c.routes[r.DestinationCIDR] = &made
	return nil
}

// DeleteRoute implements cloudprovider.Routes.
func (c *Cloud) DeleteRoute(_ context.Context, _ string, r *cloudprovider.Route) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail
	}
	defer c.changed()
	delete(c.routes, r.DestinationCIDR)
	return nil
}
