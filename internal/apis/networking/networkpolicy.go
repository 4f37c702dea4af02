package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func networkPolicy() *apis.Resource {
	return apis.Of[*networkingv1.NetworkPolicy]{
		Names: apis.Names{
			Group: "networking.k8s.io", Resource: "networkpolicies", Singular: "networkpolicy", Kind: "NetworkPolicy",
			ShortNames: []string{"netpol"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *networkingv1.NetworkPolicy { return &networkingv1.NetworkPolicy{} },
		NewList:    func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
		Generation: true,
	}.Resource()
}
