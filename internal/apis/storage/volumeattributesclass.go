package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func volumeAttributesClass() *apis.Resource {
	return apis.Of[*storagev1.VolumeAttributesClass]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "volumeattributesclasses", Singular: "volumeattributesclass", Kind: "VolumeAttributesClass",
			ShortNames: []string{"vac"},
		},
		Version: "v1",
		New:     func() *storagev1.VolumeAttributesClass { return &storagev1.VolumeAttributesClass{} },
		NewList: func() runtime.Object { return &storagev1.VolumeAttributesClassList{} },
	}.Resource()
}
