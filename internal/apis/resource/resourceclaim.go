package resource

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func resourceClaim() *apis.Resource {
	return apis.Of[*resourcev1.ResourceClaim]{
		Names: apis.Names{
			Group: "resource.k8s.io", Resource: "resourceclaims", Singular: "resourceclaim", Kind: "ResourceClaim",
			Namespaced: true,
		},
		Version:   "v1",
		New:       func() *resourcev1.ResourceClaim { return &resourcev1.ResourceClaim{} },
		NewList:   func() runtime.Object { return &resourcev1.ResourceClaimList{} },
		HasStatus: true,
	}.Resource()
}
