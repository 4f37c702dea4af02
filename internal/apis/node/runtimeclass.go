package node

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
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
	"skiff/internal/apis/core"
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
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		AllowCreateOnUpdate:    true,
		Validate:               validateRuntimeClass,
		ValidateUpdate: func(ctx context.Context, c, old *nodev1.RuntimeClass) field.ErrorList {
			return append(validateRuntimeClass(ctx, c), validation.ValidateImmutableField(c.Handler, old.Handler, field.NewPath("handler"))...)
		},
		Warnings: nodeLabelWarnings,
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
	errs := checks.RequiredName(c.Handler, field.NewPath("handler"), utilvalidation.IsDNS1123Label)
	if c.Overhead != nil {
		errs = append(errs, core.ValidateOverhead(c.Overhead.PodFixed, field.NewPath("overhead"))...)
	}
	if c.Scheduling != nil {
		path := field.NewPath("scheduling")
		errs = append(errs, metav1validation.ValidateLabels(c.Scheduling.NodeSelector, path.Child("nodeSelector"))...)
		errs = append(errs, validateTolerations(c.Scheduling.Tolerations, path.Child("tolerations"))...)
	}
	return errs
}

func validateTolerations(tolerations []corev1.Toleration, path *field.Path) field.ErrorList {
	errs := core.ValidateTolerations(tolerations, path)
	for i := range tolerations {
		if slices.ContainsFunc(tolerations[:i], func(t corev1.Toleration) bool { return t.MatchToleration(&tolerations[i]) }) {
			errs = append(errs, field.Duplicate(path.Index(i), tolerations[i]))
		}
	}
	return errs
}

func nodeLabelWarnings(_ context.Context, c, _ *nodev1.RuntimeClass) []string {
	if c.Scheduling == nil {
		return nil
	}
	var warnings []string
	for _, key := range slices.Sorted(maps.Keys(c.Scheduling.NodeSelector)) {
		if instead := core.DeprecatedNodeLabel(key); instead != "" {
			warnings = append(warnings, fmt.Sprintf("%s: %s", field.NewPath("scheduling", "nodeSelector"), instead))
		}
	}
	return warnings
}
