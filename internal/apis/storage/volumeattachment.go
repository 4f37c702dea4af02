package storage

import (
	"context"

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
)

func volumeAttachment() *apis.Resource {
	docs := storagev1.VolumeAttachmentSpec{}.SwaggerDoc()
	return apis.Of[*storagev1.VolumeAttachment]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "volumeattachments", Singular: "volumeattachment", Kind: "VolumeAttachment",
		},
		Version:   "v1",
		New:       func() *storagev1.VolumeAttachment { return &storagev1.VolumeAttachment{} },
		NewList:   func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
		HasStatus: true,
		Validate:  validateVolumeAttachment,
		ValidateUpdate: func(ctx context.Context, a, old *storagev1.VolumeAttachment) field.ErrorList {
			return append(validateVolumeAttachment(ctx, a), validation.ValidateImmutableField(a.Spec, old.Spec, field.NewPath("spec"))...)
		},
		ValidateStatusUpdate: func(_ context.Context, a, _ *storagev1.VolumeAttachment) field.ErrorList {
			path := field.NewPath("status")
			return append(validateVolumeError(a.Status.AttachError, path.Child("attachError")), validateVolumeError(a.Status.DetachError, path.Child("detachError"))...)
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
	path := field.NewPath("spec")
	errs := validateDriverName(a.Spec.Attacher, path.Child("attacher"))
	source := path.Child("source")
	switch s := &a.Spec.Source; {
	case s.InlineVolumeSpec == nil && s.PersistentVolumeName == nil:
		errs = append(errs, field.Required(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case s.InlineVolumeSpec != nil && s.PersistentVolumeName != nil:
		errs = append(errs, field.Forbidden(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case s.PersistentVolumeName != nil && *s.PersistentVolumeName == "":
		errs = append(errs, field.Required(source.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
	}
	return append(errs, checks.Name(a.Spec.NodeName, path.Child("nodeName"), utilvalidation.IsDNS1123Subdomain)...)
}

func validateVolumeError(e *storagev1.VolumeError, path *field.Path) field.ErrorList {
	const maxMessage = 1024
	if e == nil || len(e.Message) <= maxMessage {
		return nil
	}
	return field.ErrorList{field.TooLong(path.Child("message"), e.Message, maxMessage)}
}
