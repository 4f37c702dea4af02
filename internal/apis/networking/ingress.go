package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func ingress() *apis.Resource {
	return apis.Of[*networkingv1.Ingress]{
		Names: apis.Names{
			Group: "networking.k8s.io", Resource: "ingresses", Singular: "ingress", Kind: "Ingress",
			ShortNames: []string{"ing"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *networkingv1.Ingress { return &networkingv1.Ingress{} },
		NewList:    func() runtime.Object { return &networkingv1.IngressList{} },
		Prefix:     "/registry/ingress",
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
