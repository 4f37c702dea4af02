package storage

import (
	"context"
	"math"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/core"
)

func volumeAttachment() *apis.Resource {
	docs := storagev1.VolumeAttachmentSpec{}.SwaggerDoc()
	return apis.Of[*storagev1.VolumeAttachment]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "volumeattachments", Singular: "volumeattachment", Kind: "VolumeAttachment",
		},
		Version:                "v1",
		New:                    func() *storagev1.VolumeAttachment { return &storagev1.VolumeAttachment{} },
		NewList:                func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
		ReturnDeleted:          true,
		HasStatus:              true,
		RequireResourceVersion: true,
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsNew},
		MetadataOnStatusUpdate: []apis.MetadataCheck{},
		Validate:               validateVolumeAttachment,
		ValidateUpdate:         validateVolumeAttachmentUpdate,
		Reset:                  map[string][]string{"status": {"metadata"}},
		PrepareStatusUpdate: func(_ context.Context, o, old *storagev1.VolumeAttachment) {
			metav1.ResetObjectMetaForStatus(&o.ObjectMeta, &old.ObjectMeta)
		},
		ValidateStatusUpdate: func(_ context.Context, a, _ *storagev1.VolumeAttachment) field.ErrorList {
			return validateAttachmentStatus(&a.Status)
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			{Name: "Attacher", Type: "string", Format: "name", Description: docs["attacher"]},
			columns.String("PV", storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]),
			columns.String("Node", docs["nodeName"]),
			columns.Boolean("Attached", storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]),
			columns.AgeColumn(),
		},
		Cells: func(a *storagev1.VolumeAttachment) []any {
			return []any{
				a.Name, a.Spec.Attacher, ptr.Deref(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName,
				a.Status.Attached, columns.Age(a.CreationTimestamp),
			}
		},
	}.Resource()
}

func validateVolumeAttachment(_ context.Context, a *storagev1.VolumeAttachment) field.ErrorList {
	return append(validateAttacher(a), validateAttachment(a)...)
}

// validateVolumeAttachmentUpdate lets attachers that older rules accepted pass.
func validateVolumeAttachmentUpdate(_ context.Context, a, old *storagev1.VolumeAttachment) field.ErrorList {
	var errs field.ErrorList
	if a.Spec.Attacher != old.Spec.Attacher {
		errs = validateAttacher(a)
	}
	errs = append(errs, validateAttachment(a)...)
	return append(errs, validation.ValidateImmutableField(a.Spec, old.Spec, field.NewPath("spec"))...)
}

func validateAttacher(a *storagev1.VolumeAttachment) field.ErrorList {
	return checks.DriverName(a.Spec.Attacher, field.NewPath("spec", "attacher"))
}

func validateAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateAttachmentSpec(&a.Spec, path)
	errs = append(errs, validateAttachmentStatus(&a.Status)...)
	if name := a.Spec.Source.PersistentVolumeName; name != nil {
		errs = append(errs, checks.Name(*name, path.Child("source", "persistentVolumeName"), utilvalidation.IsDNS1123Subdomain)...)
	}
	return errs
}

func validateAttachmentSpec(s *storagev1.VolumeAttachmentSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	source, one := path.Child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch from := &s.Source; {
	case from.InlineVolumeSpec == nil && from.PersistentVolumeName == nil:
		errs = append(errs, field.Required(source, one))
	case from.InlineVolumeSpec != nil && from.PersistentVolumeName != nil:
		errs = append(errs, field.Forbidden(source, one))
	case from.InlineVolumeSpec != nil:
		errs = append(errs, core.ValidateInlineVolumeSpec(from.InlineVolumeSpec, source.Child("inlineVolumeSpec"))...)
	case *from.PersistentVolumeName == "":
		errs = append(errs, field.Required(source.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
	}
	return append(errs, checks.Name(s.NodeName, path.Child("nodeName"), utilvalidation.IsDNS1123Subdomain)...)
}

// Limits of what an attacher reports, upstream's.
const (
	maxMetadataBytes = 256 * 1024
	maxErrorBytes    = 1024
)

func validateAttachmentStatus(s *storagev1.VolumeAttachmentStatus) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	size := 0
	for k, v := range s.AttachmentMetadata {
		size += len(k) + len(v)
	}
	if size > maxMetadataBytes {
		errs = append(errs, field.TooLong(path.Child("attachmentMetadata"), "", maxMetadataBytes))
	}
	errs = append(errs, validateVolumeError(s.AttachError, path.Child("attachError"))...)
	return append(errs, validateVolumeError(s.DetachError, path.Child("detachError"))...)
}

func validateVolumeError(e *storagev1.VolumeError, path *field.Path) field.ErrorList {
	if e == nil {
		return nil
	}
	var errs field.ErrorList
	if len(e.Message) > maxErrorBytes {
		// Upstream names the other limit.
		errs = append(errs, field.TooLong(path.Child("message"), "", maxMetadataBytes))
	}
	if e.ErrorCode != nil && *e.ErrorCode < 0 {
		errs = append(errs, field.Invalid(path.Child("errorCode"), *e.ErrorCode, utilvalidation.InclusiveRangeError(0, math.MaxInt32)))
	}
	return errs
}
