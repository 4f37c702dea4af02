// Package apiextensions declares the resources of the API group apiextensions.k8s.io.
package apiextensions

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		customResourceDefinition(),
	}
}
