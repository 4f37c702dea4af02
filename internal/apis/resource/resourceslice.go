package resource

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func resourceSlice() *apis.Resource {
	return apis.Of[*resourcev1.ResourceSlice]{
		Names: apis.Names{
			Group: "resource.k8s.io", Resource: "resourceslices", Singular: "resourceslice", Kind: "ResourceSlice",
		},
		Version:    "v1",
		New:        func() *resourcev1.ResourceSlice { return &resourcev1.ResourceSlice{} },
		NewList:    func() runtime.Object { return &resourcev1.ResourceSliceList{} },
		Generation: true,
	}.Resource()
}
