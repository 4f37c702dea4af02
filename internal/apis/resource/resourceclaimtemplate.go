package resource

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func resourceClaimTemplate() *apis.Resource {
	return apis.Of[*resourcev1.ResourceClaimTemplate]{
		Names: apis.Names{
			Group: "resource.k8s.io", Resource: "resourceclaimtemplates", Singular: "resourceclaimtemplate", Kind: "ResourceClaimTemplate",
			Namespaced: true,
		},
		Version: "v1",
		New:     func() *resourcev1.ResourceClaimTemplate { return &resourcev1.ResourceClaimTemplate{} },
		NewList: func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} },
	}.Resource()
}
