package resource

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

func resourceClaimTemplate(g Grants) *apis.Resource {
	return apis.Of[*resourcev1.ResourceClaimTemplate]{
		Names: apis.Names{
			Group: "resource.k8s.io", Resource: "resourceclaimtemplates", Singular: "resourceclaimtemplate", Kind: "ResourceClaimTemplate",
			Namespaced: true,
		},
		Version: "v1",
		New:     func() *resourcev1.ResourceClaimTemplate { return &resourcev1.ResourceClaimTemplate{} },
		NewList: func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} },
		Default: func(t *resourcev1.ResourceClaimTemplate) { defaultClaimSpec(&t.Spec.Spec) },
		Validate: func(ctx context.Context, t *resourcev1.ResourceClaimTemplate) field.ErrorList {
			path := field.NewPath("spec")
			errs := g.adminAccess(ctx, t.Namespace, adminRequest(&t.Spec.Spec))
			errs = append(errs, validation.ValidateAnnotations(t.Spec.Annotations, path.Child("metadata", "annotations"))...)
			errs = append(errs, metav1validation.ValidateLabels(t.Spec.Labels, path.Child("metadata", "labels"))...)
			return append(errs, validateClaimSpec(&t.Spec.Spec, path.Child("spec"))...)
		},
		ValidateUpdate: func(_ context.Context, t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
			return validation.ValidateImmutableField(t.Spec, old.Spec, field.NewPath("spec"))
		},
		Columns: []metav1.TableColumnDefinition{columns.Name(), columns.AgeColumn()},
		Cells: func(t *resourcev1.ResourceClaimTemplate) []any {
			return []any{t.Name, columns.Age(t.CreationTimestamp)}
		},
	}.Resource()
}
