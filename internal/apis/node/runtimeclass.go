package node

import (
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func runtimeClass() *apis.Resource {
	return apis.Of[*nodev1.RuntimeClass]{
		Names: apis.Names{
			Group: "node.k8s.io", Resource: "runtimeclasses", Singular: "runtimeclass", Kind: "RuntimeClass",
		},
		Version: "v1",
		New:     func() *nodev1.RuntimeClass { return &nodev1.RuntimeClass{} },
		NewList: func() runtime.Object { return &nodev1.RuntimeClassList{} },
	}.Resource()
}
