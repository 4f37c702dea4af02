package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func storageClass() *apis.Resource {
	return apis.Of[*storagev1.StorageClass]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "storageclasses", Singular: "storageclass", Kind: "StorageClass",
			ShortNames: []string{"sc"},
		},
		Version: "v1",
		New:     func() *storagev1.StorageClass { return &storagev1.StorageClass{} },
		NewList: func() runtime.Object { return &storagev1.StorageClassList{} },
	}.Resource()
}
