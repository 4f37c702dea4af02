package discovery

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func endpointSlice() *apis.Resource {
	return apis.Of[*discoveryv1.EndpointSlice]{
		Names: apis.Names{
			Group: "discovery.k8s.io", Resource: "endpointslices", Singular: "endpointslice", Kind: "EndpointSlice",
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} },
		NewList:    func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		Generation: true,
	}.Resource()
}
