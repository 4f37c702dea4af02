// Package policy declares the resources of the API group policy.
package policy

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		podDisruptionBudget(),
	}
}
