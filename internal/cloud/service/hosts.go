package service

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/service/helpers"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// served is what the balancer was told of a Service: as long as nothing else
// changes than the nodes, its hosts are all that has to be updated.
type served struct {
	uid         types.UID
	spec        corev1.ServiceSpec
	annotations map[string]string
	status      corev1.LoadBalancerStatus
	// hosts are the nodes by their names and identities in the cloud.
	hosts sets.Set[string]
}

func (c *Controller) remember(svc *corev1.Service, nodes []*corev1.Node) {
	if c.always {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.served[ctrlclient.ObjectKeyFromObject(svc)] = &served{
		uid: svc.UID, spec: svc.Spec, annotations: svc.Annotations, status: svc.Status.LoadBalancer, hosts: hostsOf(nodes),
	}
}

func (c *Controller) forget(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.served, key)
}

// known returns what the balancer was told of the Service, nil if it has to be
// told anew.
func (c *Controller) known(svc *corev1.Service) *served {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mu.served[ctrlclient.ObjectKeyFromObject(svc)]
	if s == nil || s.uid != svc.UID || !equality.Semantic.DeepEqual(s.spec, svc.Spec) || !maps.Equal(s.annotations, svc.Annotations) ||
		!helpers.LoadBalancerStatusEqual(&s.status, &svc.Status.LoadBalancer) {
		return nil
	}
	return s
}

func hostsOf(nodes []*corev1.Node) sets.Set[string] {
	hosts := sets.New[string]()
	for _, n := range nodes {
		hosts.Insert(n.Name + " " + n.Spec.ProviderID)
	}
	return hosts
}

// updateHosts tells the balancer which nodes there are now.
func (c *Controller) updateHosts(ctx context.Context, svc *corev1.Service, known *served, nodes []*corev1.Node) error {
	hosts := hostsOf(nodes)
	if hosts.Equal(known.hosts) {
		return nil
	}
	err := c.Balancer.UpdateLoadBalancer(ctx, c.ClusterName, svc, nodes)
	if err == nil {
		if len(nodes) == 0 {
			c.warnOfNoNodes(svc)
		} else {
			c.events.Event(svc, corev1.EventTypeNormal, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
		}
		c.remember(svc, nodes)
		return nil
	}
	if errors.Is(err, cloudprovider.ImplementedElsewhere) {
		return nil
	}
	// Without a load balancer there are no hosts to update.
	if _, exists, lookup := c.Balancer.GetLoadBalancer(ctx, c.ClusterName, svc); lookup == nil && !exists {
		return nil
	}
	var names []string
	for _, n := range nodes[:min(len(nodes), namedHosts)] {
		names = append(names, n.Name)
	}
	c.events.Eventf(svc, corev1.EventTypeWarning, "UpdateLoadBalancerFailed",
		"Error updating load balancer with new hosts %v [node names limited, total number of nodes: %d], error: %v", names, len(nodes), err)
	return fmt.Errorf("update load balancer: %w", err)
}

// namedHosts is how many hosts an event names.
const namedHosts = 20

func (c *Controller) warnOfNoNodes(svc *corev1.Service) {
	c.events.Event(svc, corev1.EventTypeWarning, "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer")
}
