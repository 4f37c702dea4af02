// Package resource declares the resources of the API group resource.k8s.io.
package resource

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources(g Grants) []*apis.Resource {
	return []*apis.Resource{
		deviceClass(),
		resourceClaim(g),
		resourceClaimTemplate(g),
		resourceSlice(),
	}
}
