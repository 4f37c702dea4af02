// Package networking declares the resources of the API group networking.k8s.io.
package networking

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		ingress(),
		ingressClass(),
		networkPolicy(),
		ipAddress(),
		serviceCIDR(),
	}
}
