package resource

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

func deviceClass() *apis.Resource {
	return apis.Of[*resourcev1.DeviceClass]{
		Names: apis.Names{
			Group: "resource.k8s.io", Resource: "deviceclasses", Singular: "deviceclass", Kind: "DeviceClass",
		},
		Version:    "v1",
		New:        func() *resourcev1.DeviceClass { return &resourcev1.DeviceClass{} },
		NewList:    func() runtime.Object { return &resourcev1.DeviceClassList{} },
		Generation: true,
		Validate:   validateDeviceClass,
		Columns:    []metav1.TableColumnDefinition{columns.Name(), columns.AgeColumn()},
		Cells:      func(c *resourcev1.DeviceClass) []any { return []any{c.Name, columns.Age(c.CreationTimestamp)} },
	}.Resource()
}

func validateDeviceClass(_ context.Context, c *resourcev1.DeviceClass) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateSelectors(c.Spec.Selectors, path.Child("selectors"))
	for i := range c.Spec.Config {
		errs = append(errs, validateConfiguration(&c.Spec.Config[i].DeviceConfiguration, path.Child("config").Index(i))...)
	}
	return errs
}
