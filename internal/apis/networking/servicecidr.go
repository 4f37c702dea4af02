package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func serviceCIDR() *apis.Resource {
	return apis.Of[*networkingv1.ServiceCIDR]{
		Names: apis.Names{
			Group: "networking.k8s.io", Resource: "servicecidrs", Singular: "servicecidr", Kind: "ServiceCIDR",
		},
		Version:   "v1",
		New:       func() *networkingv1.ServiceCIDR { return &networkingv1.ServiceCIDR{} },
		NewList:   func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
		HasStatus: true,
	}.Resource()
}
