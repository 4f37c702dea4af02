package resource

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	resourcev1beta1 "k8s.io/api/resource/v1beta1"
	resourcev1beta2 "k8s.io/api/resource/v1beta2"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/core"
)

func resourceClaimTemplate(g Grants) *apis.Resource {
	return apis.Of[*resourcev1.ResourceClaimTemplate]{
		Names: apis.Names{
			Group: "resource.k8s.io", Resource: "resourceclaimtemplates", Singular: "resourceclaimtemplate", Kind: "ResourceClaimTemplate",
			Namespaced: true,
		},
		Version:       "v1",
		New:           func() *resourcev1.ResourceClaimTemplate { return &resourcev1.ResourceClaimTemplate{} },
		NewList:       func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} },
		ReturnDeleted: true,
		Other: []apis.Version{
			apis.Twin[resourcev1.ResourceClaimTemplate, resourcev1beta2.ResourceClaimTemplate](resourcev1beta2.SchemeGroupVersion.WithKind("ResourceClaimTemplate"), func() runtime.Object { return &resourcev1beta2.ResourceClaimTemplateList{} }),
			apis.Cousin[resourcev1.ResourceClaimTemplate, resourcev1beta1.ResourceClaimTemplate](resourcev1beta1.SchemeGroupVersion.WithKind("ResourceClaimTemplate"), func() runtime.Object { return &resourcev1beta1.ResourceClaimTemplateList{} }, templateFromV1beta1, templateToV1beta1),
		},
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		Default:          func(t *resourcev1.ResourceClaimTemplate) { defaultClaimSpec(&t.Spec.Spec) },
		Validate: func(ctx context.Context, t *resourcev1.ResourceClaimTemplate) field.ErrorList {
			return append(g.adminAccess(ctx, t.Namespace, adminRequest(&t.Spec.Spec)), validateTemplate(&t.Spec)...)
		},
		ValidateUpdate: func(_ context.Context, t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
			return append(validateTemplate(&t.Spec), validation.ValidateImmutableField(t.Spec, old.Spec, field.NewPath("spec"))...)
		},
		Columns: []metav1.TableColumnDefinition{columns.Name(), columns.AgeColumn()},
		Cells: func(t *resourcev1.ResourceClaimTemplate) []any {
			return []any{t.Name, columns.Age(t.CreationTimestamp)}
		},
	}.Resource()
}

func validateTemplate(s *resourcev1.ResourceClaimTemplateSpec) field.ErrorList {
	path := field.NewPath("spec")
	return append(core.ValidateTemplateMetadata(&s.ObjectMeta, path.Child("metadata")), validateClaimSpec(&s.Spec, path.Child("spec"))...)
}
