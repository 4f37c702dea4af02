package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func csiStorageCapacity() *apis.Resource {
	return apis.Of[*storagev1.CSIStorageCapacity]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "csistoragecapacities", Singular: "csistoragecapacity", Kind: "CSIStorageCapacity",
			Namespaced: true,
		},
		Version: "v1",
		New:     func() *storagev1.CSIStorageCapacity { return &storagev1.CSIStorageCapacity{} },
		NewList: func() runtime.Object { return &storagev1.CSIStorageCapacityList{} },
	}.Resource()
}
