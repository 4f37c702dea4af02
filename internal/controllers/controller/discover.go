package controller

import (
	"context"
	"errors"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Discover returns the resources that are served, each in its preferred
// version, as client-go's ServerPreferredResources does: with an error there
// may be a part of the answer.
type Discover func(ctx context.Context) ([]*metav1.APIResourceList, error)

// Resource is one resource of a server.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
}

// GVK returns the resource's group, version and kind.
func (r Resource) GVK() schema.GroupVersionKind { return r.GroupVersion().WithKind(r.Kind) }

// List returns what f found, without subresources and resources that lack one
// of the verbs.
func (f Discover) List(ctx context.Context, verbs ...string) ([]Resource, error) {
	lists, err := f(ctx)
	var all []Resource
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			err = errors.Join(err, parseErr)
			continue
		}
	resources:
		for _, r := range list.APIResources {
			for _, v := range verbs {
				if !slices.Contains(r.Verbs, v) {
					continue resources
				}
			}
			if slices.Contains([]byte(r.Name), '/') {
				continue
			}
			all = append(all, Resource{GroupVersionResource: gv.WithResource(r.Name), Kind: r.Kind, Namespaced: r.Namespaced})
		}
	}
	return all, err
}

// Metadata returns an empty object of the resource that reads metadata only.
func (r Resource) Metadata() *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(r.GVK())
	return o
}

// MetadataList returns an empty list of the resource that reads metadata only.
func (r Resource) MetadataList() *metav1.PartialObjectMetadataList {
	l := &metav1.PartialObjectMetadataList{}
	l.SetGroupVersionKind(r.GroupVersion().WithKind(r.Kind + "List"))
	return l
}
