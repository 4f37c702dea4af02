// Package apiregistration declares the resources of the API group apiregistration.k8s.io.
package apiregistration

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		apiService(),
	}
}
