// Package discovery declares the resources of the API group discovery.k8s.io.
package discovery

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		endpointSlice(),
	}
}
