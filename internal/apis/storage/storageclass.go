package storage

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

func storageClass() *apis.Resource {
	docs := storagev1.StorageClass{}.SwaggerDoc()
	return apis.Of[*storagev1.StorageClass]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "storageclasses", Singular: "storageclass", Kind: "StorageClass",
			ShortNames: []string{"sc"},
		},
		Version: "v1",
		New:     func() *storagev1.StorageClass { return &storagev1.StorageClass{} },
		NewList: func() runtime.Object { return &storagev1.StorageClassList{} },
		Default: func(c *storagev1.StorageClass) {
			fill.Pointer(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
			fill.Pointer(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
		},
		Validate:       validateStorageClass,
		ValidateUpdate: validateStorageClassUpdate,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Provisioner", docs["provisioner"]),
			columns.String("ReclaimPolicy", docs["reclaimPolicy"]),
			columns.String("VolumeBindingMode", docs["volumeBindingMode"]),
			columns.String("AllowVolumeExpansion", docs["allowVolumeExpansion"]),
			columns.AgeColumn(),
		},
		Cells: func(c *storagev1.StorageClass) []any {
			return []any{
				markDefault(c.Name, c.Annotations, "storageclass.kubernetes.io/is-default-class"), c.Provisioner,
				string(ptr.Deref(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
				string(ptr.Deref(c.VolumeBindingMode, storagev1.VolumeBindingImmediate)),
				ptr.Deref(c.AllowVolumeExpansion, false), columns.Age(c.CreationTimestamp),
			}
		},
	}.Resource()
}

func validateStorageClass(_ context.Context, c *storagev1.StorageClass) field.ErrorList {
	errs := validateProvisioner(c.Provisioner, field.NewPath("provisioner"))
	errs = append(errs, validateParameters(c.Parameters, false, field.NewPath("parameters"))...)
	errs = append(errs, checks.Enum(ptr.Deref(c.ReclaimPolicy, ""), field.NewPath("reclaimPolicy"),
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	errs = append(errs, checks.Enum(ptr.Deref(c.VolumeBindingMode, ""), field.NewPath("volumeBindingMode"),
		storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	for i := range c.AllowedTopologies {
		for k, expr := range c.AllowedTopologies[i].MatchLabelExpressions {
			path := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(k)
			if len(expr.Values) == 0 {
				errs = append(errs, field.Required(path.Child("values"), ""))
			}
			errs = append(errs, metav1validation.ValidateLabelName(expr.Key, path.Child("key"))...)
		}
	}
	return errs
}

func validateStorageClassUpdate(ctx context.Context, c, old *storagev1.StorageClass) field.ErrorList {
	errs := validateStorageClass(ctx, c)
	forbid := func(same bool, name string) {
		if !same {
			errs = append(errs, field.Forbidden(field.NewPath(name), "updates to "+name+" are forbidden."))
		}
	}
	forbid(maps.Equal(c.Parameters, old.Parameters), "parameters")
	forbid(c.Provisioner == old.Provisioner, "provisioner")
	forbid(ptr.Equal(c.ReclaimPolicy, old.ReclaimPolicy), "reclaimPolicy")
	return append(errs, validation.ValidateImmutableField(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
}
