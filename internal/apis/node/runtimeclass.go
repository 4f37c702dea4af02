package node

import (
	"context"

	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

func runtimeClass() *apis.Resource {
	return apis.Of[*nodev1.RuntimeClass]{
		Names: apis.Names{
			Group: "node.k8s.io", Resource: "runtimeclasses", Singular: "runtimeclass", Kind: "RuntimeClass",
		},
		Version:                "v1",
		New:                    func() *nodev1.RuntimeClass { return &nodev1.RuntimeClass{} },
		NewList:                func() runtime.Object { return &nodev1.RuntimeClassList{} },
		RequireResourceVersion: true,
		Validate:               validateRuntimeClass,
		ValidateUpdate: func(_ context.Context, c, old *nodev1.RuntimeClass) field.ErrorList {
			return validation.ValidateImmutableField(c.Handler, old.Handler, field.NewPath("handler"))
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Handler", nodev1.RuntimeClass{}.SwaggerDoc()["handler"]),
			columns.AgeColumn(),
		},
		Cells: func(c *nodev1.RuntimeClass) []any {
			return []any{c.Name, c.Handler, columns.Age(c.CreationTimestamp)}
		},
	}.Resource()
}

func validateRuntimeClass(_ context.Context, c *nodev1.RuntimeClass) field.ErrorList {
	errs := checks.Name(c.Handler, field.NewPath("handler"), utilvalidation.IsDNS1123Label)
	if c.Overhead != nil {
		path := field.NewPath("overhead", "podFixed")
		for name, quantity := range c.Overhead.PodFixed {
			errs = append(errs, checks.Name(string(name), path.Key(string(name)), utilvalidation.IsQualifiedName)...)
			if quantity.Sign() < 0 {
				errs = append(errs, field.Invalid(path.Key(string(name)), quantity.String(), validation.IsNegativeErrorMsg))
			}
		}
	}
	if c.Scheduling != nil {
		errs = append(errs, metav1validation.ValidateLabels(c.Scheduling.NodeSelector, field.NewPath("scheduling", "nodeSelector"))...)
	}
	return errs
}
