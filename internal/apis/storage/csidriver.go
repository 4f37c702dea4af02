package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func csiDriver() *apis.Resource {
	return apis.Of[*storagev1.CSIDriver]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "csidrivers", Singular: "csidriver", Kind: "CSIDriver",
		},
		Version: "v1",
		New:     func() *storagev1.CSIDriver { return &storagev1.CSIDriver{} },
		NewList: func() runtime.Object { return &storagev1.CSIDriverList{} },
	}.Resource()
}
