// Package batch declares the resources of the API group batch.
package batch

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		cronJob(),
		job(),
	}
}
