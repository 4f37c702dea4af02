// Package node declares the resources of the API group node.k8s.io.
package node

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		runtimeClass(),
	}
}
