package apiextensions

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func customResourceDefinition() *apis.Resource {
	return apis.Of[*apiextensionsv1.CustomResourceDefinition]{
		Names: apis.Names{
			Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions", Singular: "customresourcedefinition", Kind: "CustomResourceDefinition",
			ShortNames: []string{"crd", "crds"},
			Categories: []string{"api-extensions"},
		},
		Version:    "v1",
		New:        func() *apiextensionsv1.CustomResourceDefinition { return &apiextensionsv1.CustomResourceDefinition{} },
		NewList:    func() runtime.Object { return &apiextensionsv1.CustomResourceDefinitionList{} },
		Prefix:     "/registry/apiextensions.k8s.io/customresourcedefinitions",
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
