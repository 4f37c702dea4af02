// Package flowcontrol declares the resources of the API group flowcontrol.apiserver.k8s.io.
package flowcontrol

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/apis"
)

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		flowSchema(),
		priorityLevelConfiguration(),
	}
}

// keepMetadata undoes what an update of the status would do to the metadata: all
// but whose the fields are.
func keepMetadata(meta, old *metav1.ObjectMeta) {
	owners := meta.ManagedFields
	*meta = *old
	meta.ManagedFields = owners
}
