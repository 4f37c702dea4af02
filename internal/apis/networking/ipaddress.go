package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func ipAddress() *apis.Resource {
	return apis.Of[*networkingv1.IPAddress]{
		Names: apis.Names{
			Group: "networking.k8s.io", Resource: "ipaddresses", Singular: "ipaddress", Kind: "IPAddress",
			ShortNames: []string{"ip"},
		},
		Version: "v1",
		New:     func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
		NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },
	}.Resource()
}
