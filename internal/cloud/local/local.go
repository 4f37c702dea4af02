// Package local is a cloud provider for machines without a cloud: a Service of
// type LoadBalancer gets the addresses of the cluster's nodes, where the service
// proxy answers at the Service's own ports.
package local

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	cloudprovider "k8s.io/cloud-provider"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cloud"
)

// Port is a port of the nodes.
type Port struct {
	Protocol corev1.Protocol
	Number   int32
}

// Balancer implements cloudprovider.LoadBalancer.
type Balancer struct {
	// Reader reads Services and EndpointSlices; it may be a cache.
	Reader ctrlclient.Reader
	// Reserved are the ports that the nodes need for themselves, by what needs
	// them: a Service with one of them would cut the cluster off.
	Reserved map[Port]string
}

var _ cloudprovider.LoadBalancer = (*Balancer)(nil)

// GetLoadBalancer implements cloudprovider.LoadBalancer. There is nothing
// outside the cluster that could outlive a Service.
func (b *Balancer) GetLoadBalancer(_ context.Context, _ string, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	return &svc.Status.LoadBalancer, len(svc.Status.LoadBalancer.Ingress) > 0, nil
}

// GetLoadBalancerName implements cloudprovider.LoadBalancer.
func (b *Balancer) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return cloudprovider.DefaultLoadBalancerName(svc)
}

// EnsureLoadBalancer implements cloudprovider.LoadBalancer. The error wraps
// cloud.ErrPending if another Service or the node itself has one of the ports,
// or if no node is ready.
func (b *Balancer) EnsureLoadBalancer(ctx context.Context, _ string, svc *corev1.Service, nodes []*corev1.Node) (*corev1.LoadBalancerStatus, error) {
	if err := b.conflict(ctx, svc); err != nil {
		return nil, err
	}
	usable, err := b.usable(ctx, svc, nodes)
	if err != nil {
		return nil, err
	}
	status := &corev1.LoadBalancerStatus{}
	mode := corev1.LoadBalancerIPModeVIP
	for _, ip := range addresses(svc, usable) {
		status.Ingress = append(status.Ingress, corev1.LoadBalancerIngress{IP: ip.String(), IPMode: &mode})
	}
	if len(status.Ingress) == 0 {
		return nil, fmt.Errorf("%w: no ready node can serve it", cloud.ErrPending)
	}
	return status, nil
}

// AddressesAreNodes implements cloud.NodeAddresser.
func (b *Balancer) AddressesAreNodes() {}

// UpdateLoadBalancer implements cloudprovider.LoadBalancer. Node changes reach
// EnsureLoadBalancer.
func (b *Balancer) UpdateLoadBalancer(context.Context, string, *corev1.Service, []*corev1.Node) error {
	return nil
}

// EnsureLoadBalancerDeleted implements cloudprovider.LoadBalancer.
func (b *Balancer) EnsureLoadBalancerDeleted(context.Context, string, *corev1.Service) error {
	return nil
}

// conflict returns an error if a Service that comes before svc, or the node,
// has one of its ports.
func (b *Balancer) conflict(ctx context.Context, svc *corev1.Service) error {
	for _, p := range svc.Spec.Ports {
		if who, taken := b.Reserved[Port{p.Protocol, p.Port}]; taken {
			return fmt.Errorf("%w: the nodes need port %d/%s for %s", cloud.ErrPending, p.Port, p.Protocol, who)
		}
	}
	var all corev1.ServiceList
	if err := b.Reader.List(ctx, &all); err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	for i := range all.Items {
		other := &all.Items[i]
		if !balanced(other) || other.UID == svc.UID || compare(other, svc) > 0 {
			continue
		}
		for _, p := range svc.Spec.Ports {
			if slices.ContainsFunc(other.Spec.Ports, func(o corev1.ServicePort) bool { return o.Port == p.Port && o.Protocol == p.Protocol }) {
				return fmt.Errorf("%w: service %s/%s has port %d/%s of the nodes", cloud.ErrPending, other.Namespace, other.Name, p.Port, p.Protocol)
			}
		}
	}
	return nil
}

func balanced(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.LoadBalancerClass == nil && s.DeletionTimestamp == nil
}

// compare orders Services by the right to a port: the older one has it.
func compare(a, b *corev1.Service) int {
	return cmp.Or(
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		strings.Compare(a.Namespace, b.Namespace),
		strings.Compare(a.Name, b.Name))
}

// usable returns the ready nodes; for a Service that keeps traffic on the node
// where it arrives only those with an endpoint.
func (b *Balancer) usable(ctx context.Context, svc *corev1.Service, nodes []*corev1.Node) ([]*corev1.Node, error) {
	with := map[string]bool{}
	local := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if local {
		var all discoveryv1.EndpointSliceList
		err := b.Reader.List(ctx, &all, ctrlclient.InNamespace(svc.Namespace), ctrlclient.MatchingLabels{discoveryv1.LabelServiceName: svc.Name})
		if err != nil {
			return nil, fmt.Errorf("list endpoints: %w", err)
		}
		for i := range all.Items {
			for _, e := range all.Items[i].Endpoints {
				if e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					with[*e.NodeName] = true
				}
			}
		}
	}
	var out []*corev1.Node
	for _, n := range nodes {
		if ready(n) && (!local || with[n.Name]) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func ready(n *corev1.Node) bool {
	return n.DeletionTimestamp == nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// addresses returns the internal addresses of nodes, in the order of the
// Service's IP families.
func addresses(svc *corev1.Service, nodes []*corev1.Node) []netip.Addr {
	families := svc.Spec.IPFamilies
	if len(families) == 0 {
		families = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	var out []netip.Addr
	for _, family := range families {
		for _, n := range nodes {
			for _, a := range n.Status.Addresses {
				ip, err := netip.ParseAddr(a.Address)
				if err == nil && a.Type == corev1.NodeInternalIP && ip.Is4() == (family == corev1.IPv4Protocol) {
					out = append(out, ip)
				}
			}
		}
	}
	return out
}
