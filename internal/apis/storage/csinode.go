package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func csiNode() *apis.Resource {
	return apis.Of[*storagev1.CSINode]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "csinodes", Singular: "csinode", Kind: "CSINode",
		},
		Version: "v1",
		New:     func() *storagev1.CSINode { return &storagev1.CSINode{} },
		NewList: func() runtime.Object { return &storagev1.CSINodeList{} },
	}.Resource()
}
