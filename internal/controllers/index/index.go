// Package index names the indexes that controllers read the cache by.
package index

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The indexes: for use as fields of client.MatchingFields.
const (
	// Controller is the UID of an object's controller; objects without one are
	// under Orphans.
	Controller = "controllers/controller-uid"
	// Node is a pod's spec.nodeName.
	Node = "controllers/node"
	// Service is the Service an EndpointSlice belongs to.
	Service = "controllers/service"
)

// Orphans is the value of Controller for objects that have no controller.
const Orphans = "-"

// Add makes the indexes. It is called once for each cache, before the
// controllers over it start.
func Add(ctx context.Context, c cache.Cache) error {
	for _, i := range []struct {
		kind client.Object
		name string
		of   client.IndexerFunc
	}{
		{&corev1.Pod{}, Controller, controllerUID},
		{&corev1.Pod{}, Node, func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }},
		{&appsv1.ReplicaSet{}, Controller, controllerUID},
		{&appsv1.ControllerRevision{}, Controller, controllerUID},
		{&batchv1.Job{}, Controller, controllerUID},
		{&discoveryv1.EndpointSlice{}, Service, func(o client.Object) []string {
			return []string{o.GetLabels()[discoveryv1.LabelServiceName]}
		}},
	} {
		if err := c.IndexField(ctx, i.kind, i.name, i.of); err != nil {
			return fmt.Errorf("index %s of %T: %w", i.name, i.kind, err)
		}
	}
	return nil
}

func controllerUID(o client.Object) []string {
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		return []string{string(ref.UID)}
	}
	return []string{Orphans}
}
