package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func ingressClass() *apis.Resource {
	return apis.Of[*networkingv1.IngressClass]{
		Names: apis.Names{
			Group: "networking.k8s.io", Resource: "ingressclasses", Singular: "ingressclass", Kind: "IngressClass",
		},
		Version:    "v1",
		New:        func() *networkingv1.IngressClass { return &networkingv1.IngressClass{} },
		NewList:    func() runtime.Object { return &networkingv1.IngressClassList{} },
		Generation: true,
	}.Resource()
}
