// Package scheduling declares the resources of the API group scheduling.k8s.io.
package scheduling

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		priorityClass(),
	}
}
