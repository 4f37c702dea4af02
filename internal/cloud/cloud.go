// Package cloud connects the cluster with the infrastructure that it runs on,
// through upstream's provider interface (k8s.io/cloud-provider), so that
// existing providers plug in. Package service keeps load balancers for
// Services, package local is the provider for machines without any cloud.
package cloud

import (
	"errors"

	cloudprovider "k8s.io/cloud-provider"
)

// ErrPending is returned, wrapped, by a provider's EnsureLoadBalancer when the
// load balancer cannot be had for a reason that only a change in the cluster
// takes away. The Service is then told so and looked at again after such a
// change, instead of after some time.
var ErrPending = errors.New("load balancer pending")

// NodeAddresser is a load balancer whose addresses are those of nodes: whatever
// changes in the cluster may change its status, and so EnsureLoadBalancer is
// called, which must be cheap. Of others only the hosts are updated.
type NodeAddresser interface {
	cloudprovider.LoadBalancer
	// AddressesAreNodes is never called.
	AddressesAreNodes()
}
