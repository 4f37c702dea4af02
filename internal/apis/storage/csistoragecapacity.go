package storage

import (
	"context"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
)

func csiStorageCapacity() *apis.Resource {
	return apis.Of[*storagev1.CSIStorageCapacity]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "csistoragecapacities", Singular: "csistoragecapacity", Kind: "CSIStorageCapacity",
			Namespaced: true,
		},
		Version:  "v1",
		New:      func() *storagev1.CSIStorageCapacity { return &storagev1.CSIStorageCapacity{} },
		NewList:  func() runtime.Object { return &storagev1.CSIStorageCapacityList{} },
		Validate: validateCSIStorageCapacity,
		ValidateUpdate: func(ctx context.Context, c, old *storagev1.CSIStorageCapacity) field.ErrorList {
			errs := validateCSIStorageCapacity(ctx, c)
			errs = append(errs, validation.ValidateImmutableField(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))...)
			return append(errs, validation.ValidateImmutableField(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
		},
	}.Resource()
}

func validateCSIStorageCapacity(_ context.Context, c *storagev1.CSIStorageCapacity) field.ErrorList {
	errs := metav1validation.ValidateLabelSelector(c.NodeTopology, metav1validation.LabelSelectorValidationOptions{}, field.NewPath("nodeTopology"))
	for _, msg := range utilvalidation.IsDNS1123Subdomain(c.StorageClassName) {
		errs = append(errs, field.Invalid(field.NewPath("storageClassName"), c.StorageClassName, msg))
	}
	nonnegative := func(q *resource.Quantity, name string) {
		if q != nil && q.Sign() < 0 {
			errs = append(errs, field.Invalid(field.NewPath(name), q.String(), validation.IsNegativeErrorMsg))
		}
	}
	nonnegative(c.Capacity, "capacity")
	nonnegative(c.MaximumVolumeSize, "maximumVolumeSize")
	return errs
}
