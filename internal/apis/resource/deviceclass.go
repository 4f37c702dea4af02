package resource

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func deviceClass() *apis.Resource {
	return apis.Of[*resourcev1.DeviceClass]{
		Names: apis.Names{
			Group: "resource.k8s.io", Resource: "deviceclasses", Singular: "deviceclass", Kind: "DeviceClass",
		},
		Version:    "v1",
		New:        func() *resourcev1.DeviceClass { return &resourcev1.DeviceClass{} },
		NewList:    func() runtime.Object { return &resourcev1.DeviceClassList{} },
		Generation: true,
	}.Resource()
}
