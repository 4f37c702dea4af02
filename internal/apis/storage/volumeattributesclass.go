package storage

import (
	"context"
	"maps"

	storagev1 "k8s.io/api/storage/v1"
	storagev1beta1 "k8s.io/api/storage/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

func volumeAttributesClass() *apis.Resource {
	return apis.Of[*storagev1.VolumeAttributesClass]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "volumeattributesclasses", Singular: "volumeattributesclass", Kind: "VolumeAttributesClass",
			ShortNames: []string{"vac"},
		},
		Version:       "v1",
		New:           func() *storagev1.VolumeAttributesClass { return &storagev1.VolumeAttributesClass{} },
		NewList:       func() runtime.Object { return &storagev1.VolumeAttributesClassList{} },
		ReturnDeleted: true,
		Other: []apis.Version{
			apis.Twin[storagev1.VolumeAttributesClass, storagev1beta1.VolumeAttributesClass](storagev1beta1.SchemeGroupVersion.WithKind("VolumeAttributesClass"), func() runtime.Object { return &storagev1beta1.VolumeAttributesClassList{} }),
		},
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsChanged, apis.AsNew},
		Validate:         validateVolumeAttributesClass,
		ValidateUpdate: func(ctx context.Context, c, old *storagev1.VolumeAttributesClass) field.ErrorList {
			var errs field.ErrorList
			if c.DriverName != old.DriverName {
				errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
			}
			if !maps.Equal(c.Parameters, old.Parameters) {
				errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
			}
			return append(errs, validateVolumeAttributesClass(ctx, c)...)
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("DriverName", storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]),
			columns.AgeColumn(),
		},
		Cells: func(c *storagev1.VolumeAttributesClass) []any {
			return []any{
				markDefault(c.Name, c.Annotations, "storage.alpha.kubernetes.io/is-default-class"),
				c.DriverName, columns.Age(c.CreationTimestamp),
			}
		},
	}.Resource()
}

func validateVolumeAttributesClass(_ context.Context, c *storagev1.VolumeAttributesClass) field.ErrorList {
	return append(validateProvisioner(c.DriverName, field.NewPath("driverName")), validateParameters(c.Parameters, true, field.NewPath("parameters"))...)
}
