// Package autoscaling declares the resources of the API group autoscaling.
package autoscaling

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		horizontalPodAutoscaler(),
	}
}
