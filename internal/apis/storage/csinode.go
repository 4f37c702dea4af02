package storage

import (
	"context"
	"fmt"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

func csiNode() *apis.Resource {
	return apis.Of[*storagev1.CSINode]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "csinodes", Singular: "csinode", Kind: "CSINode",
		},
		Version:                "v1",
		RequireResourceVersion: true,
		New:                    func() *storagev1.CSINode { return &storagev1.CSINode{} },
		NewList:                func() runtime.Object { return &storagev1.CSINodeList{} },
		ReturnDeleted:          true,
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsNew},
		Validate:               func(_ context.Context, n *storagev1.CSINode) field.ErrorList { return validateDrivers(n.Spec.Drivers) },
		ValidateUpdate: func(_ context.Context, n, old *storagev1.CSINode) field.ErrorList {
			errs := validateDrivers(n.Spec.Drivers)
			for _, was := range old.Spec.Drivers {
				for _, is := range n.Spec.Drivers {
					// How many volumes fit may change.
					was.Allocatable, is.Allocatable = nil, nil
					if was.Name == is.Name {
						errs = append(errs, validation.ValidateImmutableField(is, was, field.NewPath("spec", "drivers"))...)
					}
				}
			}
			return errs
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.Integer("Drivers", "Drivers indicates the number of CSI drivers registered on the node"),
			columns.AgeColumn(),
		},
		Cells: func(n *storagev1.CSINode) []any {
			return []any{n.Name, int64(len(n.Spec.Drivers)), columns.Age(n.CreationTimestamp)}
		},
	}.Resource()
}

func validateDrivers(drivers []storagev1.CSINodeDriver) field.ErrorList {
	const maxNodeID = 256
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range drivers {
		d, path := &drivers[i], field.NewPath("spec", "drivers").Index(i)
		errs = append(errs, checks.DriverName(d.Name, path.Child("name"))...)
		switch {
		case d.NodeID == "":
			errs = append(errs, field.Required(path.Child("nodeID"), ""))
		case len(d.NodeID) > maxNodeID:
			errs = append(errs, field.Invalid(path.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID)))
		}
		if d.Allocatable != nil {
			errs = append(errs, checks.OptionalNonnegative(d.Allocatable.Count, path.Child("allocatable", "count"))...)
		}
		if seen.Has(d.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), d.Name))
		}
		seen.Insert(d.Name)
		keys := sets.New[string]()
		for _, key := range d.TopologyKeys {
			if key == "" {
				errs = append(errs, field.Required(path, ""))
			}
			if keys.Has(key) {
				errs = append(errs, field.Duplicate(path, key))
			}
			keys.Insert(key)
			errs = append(errs, checks.Name(key, path, utilvalidation.IsQualifiedName)...)
		}
	}
	return errs
}
