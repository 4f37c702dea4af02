package storage

import (
	"context"
	"fmt"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/core"
)

func csiStorageCapacity() *apis.Resource {
	return apis.Of[*storagev1.CSIStorageCapacity]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "csistoragecapacities", Singular: "csistoragecapacity", Kind: "CSIStorageCapacity",
			Namespaced: true,
		},
		Version:                "v1",
		New:                    func() *storagev1.CSIStorageCapacity { return &storagev1.CSIStorageCapacity{} },
		NewList:                func() runtime.Object { return &storagev1.CSIStorageCapacityList{} },
		RequireResourceVersion: true,
		Warnings:               topologyWarnings,
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		Validate: func(_ context.Context, c *storagev1.CSIStorageCapacity) field.ErrorList {
			return validateCSIStorageCapacity(c, metav1validation.LabelSelectorValidationOptions{})
		},
		ValidateUpdate: func(_ context.Context, c, old *storagev1.CSIStorageCapacity) field.ErrorList {
			tolerant := metav1validation.LabelSelectorHasInvalidLabelValue(old.NodeTopology)
			errs := validateCSIStorageCapacity(c, metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: tolerant})
			errs = append(errs, validation.ValidateImmutableField(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))...)
			return append(errs, validation.ValidateImmutableField(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
		},
	}.Resource()
}

func validateCSIStorageCapacity(c *storagev1.CSIStorageCapacity, selectors metav1validation.LabelSelectorValidationOptions) field.ErrorList {
	errs := metav1validation.ValidateLabelSelector(c.NodeTopology, selectors, field.NewPath("nodeTopology"))
	for _, msg := range utilvalidation.IsDNS1123Subdomain(c.StorageClassName) {
		errs = append(errs, field.Invalid(field.NewPath("storageClassName"), c.StorageClassName, msg))
	}
	if c.Capacity != nil && c.Capacity.Sign() < 0 {
		errs = append(errs, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), validation.IsNegativeErrorMsg))
	}
	return errs
}

func topologyWarnings(_ context.Context, c, _ *storagev1.CSIStorageCapacity) []string {
	if c.NodeTopology == nil {
		return nil
	}
	var warnings []string
	path := field.NewPath("nodeTopology")
	for i, r := range c.NodeTopology.MatchExpressions {
		at := path.Child("matchExpressions").Index(i)
		if instead := core.DeprecatedNodeLabel(r.Key); instead != "" {
			warnings = append(warnings, fmt.Sprintf("%s: %s is %s", at.Child("key"), r.Key, instead))
		}
	}
	for key := range c.NodeTopology.MatchLabels {
		if instead := core.DeprecatedNodeLabel(key); instead != "" {
			warnings = append(warnings, fmt.Sprintf("%s: %s", path.Child("matchLabels").Child(key), instead))
		}
	}
	return warnings
}
