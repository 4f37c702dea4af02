package storage

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/core"
	"skiff/internal/apis/fill"
)

func storageClass() *apis.Resource {
	docs := storagev1.StorageClass{}.SwaggerDoc()
	return apis.Of[*storagev1.StorageClass]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "storageclasses", Singular: "storageclass", Kind: "StorageClass",
			ShortNames: []string{"sc"},
		},
		Version:          "v1",
		New:              func() *storagev1.StorageClass { return &storagev1.StorageClass{} },
		NewList:          func() runtime.Object { return &storagev1.StorageClassList{} },
		ReturnDeleted:    true,
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		Default: func(c *storagev1.StorageClass) {
			fill.Pointer(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
			fill.Pointer(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
		},
		Validate:       validateStorageClass,
		ValidateUpdate: validateStorageClassUpdate,
		Warnings:       classWarnings,
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
				markDefault(c.Name, c.Annotations, "storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"), c.Provisioner,
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
	if p := ptr.Deref(c.ReclaimPolicy, ""); p != "" {
		errs = append(errs, checks.Supported(p, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	binding := field.NewPath("volumeBindingMode")
	if c.VolumeBindingMode == nil {
		errs = append(errs, field.Required(binding, ""))
	} else {
		errs = append(errs, checks.Supported(*c.VolumeBindingMode, binding, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

// validateTopologies refuses terms that say nothing, or the same as another.
func validateTopologies(terms []corev1.TopologySelectorTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	// Upstream starts with as many terms that say nothing.
	earlier := make([]map[string]sets.Set[string], len(terms))
	for i := range terms {
		at := path.Index(i).Child("matchLabelExpressions")
		term := map[string]sets.Set[string]{}
		for k, expr := range terms[i].MatchLabelExpressions {
			at, values := at.Index(k), sets.New[string]()
			if len(expr.Values) == 0 {
				errs = append(errs, field.Required(at.Child("values"), ""))
			}
			for n, v := range expr.Values {
				if values.Has(v) {
					errs = append(errs, field.Duplicate(at.Child("values").Index(n), v))
				}
				values.Insert(v)
			}
			errs = append(errs, metav1validation.ValidateLabelName(expr.Key, at.Child("key"))...)
			if _, twice := term[expr.Key]; twice {
				errs = append(errs, field.Duplicate(at.Child("key"), expr.Key))
			}
			term[expr.Key] = values
		}
		for _, other := range earlier {
			if equality.Semantic.DeepEqual(term, other) {
				errs = append(errs, field.Duplicate(at, ""))
			}
		}
		earlier = append(earlier, term)
	}
	return errs
}

func classWarnings(_ context.Context, c, _ *storagev1.StorageClass) []string {
	var warnings []string
	for i := range c.AllowedTopologies {
		for k, expr := range c.AllowedTopologies[i].MatchLabelExpressions {
			if instead := core.DeprecatedNodeLabel(expr.Key); instead != "" {
				at := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(k)
				warnings = append(warnings, fmt.Sprintf("%s: %s", at.Child("key"), instead))
			}
		}
	}
	return warnings
}

func validateStorageClassUpdate(ctx context.Context, c, old *storagev1.StorageClass) field.ErrorList {
	return slices.Concat(validateStorageClass(ctx, c),
		validation.ValidateImmutableField(c.Provisioner, old.Provisioner, field.NewPath("provisioner")),
		validation.ValidateImmutableField(c.Parameters, old.Parameters, field.NewPath("parameters")),
		validation.ValidateImmutableField(c.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy")),
		validation.ValidateImmutableField(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode")))
}
