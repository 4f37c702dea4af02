// Package coordination declares the resources of the API group coordination.k8s.io.
package coordination

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		lease(),
		leaseCandidate(),
	}
}
