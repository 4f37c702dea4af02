// Package flowcontrol declares the resources of the API group flowcontrol.apiserver.k8s.io.
package flowcontrol

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		flowSchema(),
		priorityLevelConfiguration(),
	}
}
