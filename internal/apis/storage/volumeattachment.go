package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func volumeAttachment() *apis.Resource {
	return apis.Of[*storagev1.VolumeAttachment]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "volumeattachments", Singular: "volumeattachment", Kind: "VolumeAttachment",
		},
		Version:   "v1",
		New:       func() *storagev1.VolumeAttachment { return &storagev1.VolumeAttachment{} },
		NewList:   func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
		HasStatus: true,
	}.Resource()
}
