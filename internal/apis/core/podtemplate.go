package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

func podTemplates() *apis.Resource {
	at := field.NewPath("template")
	return apis.Of[*corev1.PodTemplate]{
		Names:         apis.Names{Resource: "podtemplates", Singular: "podtemplate", Kind: "PodTemplate", Namespaced: true},
		Version:       "v1",
		New:           func() *corev1.PodTemplate { return &corev1.PodTemplate{} },
		NewList:       func() runtime.Object { return &corev1.PodTemplateList{} },
		ReturnDeleted: true,
		Generation:    true,
		Default:       func(t *corev1.PodTemplate) { DefaultPodTemplateSpec(&t.Template) },
		Validate: func(_ context.Context, t *corev1.PodTemplate) field.ErrorList {
			return ValidatePodTemplateSpec(&t.Template, at)
		},
		ValidateUpdate: func(_ context.Context, t, old *corev1.PodTemplate) field.ErrorList {
			return ValidatePodTemplateSpecUpdate(&t.Template, &old.Template, at)
		},
		Warnings: func(_ context.Context, t, _ *corev1.PodTemplate) []string {
			return PodTemplateWarnings(&t.Template, at)
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Containers", "Names of each container in the template."),
			columns.String("Images", "Images referenced by each container in the template."),
			columns.String("Pod Labels", "The labels for the pod template."),
		},
		Cells: func(t *corev1.PodTemplate) []any {
			names, images := columns.Containers(t.Template.Spec.Containers)
			return []any{t.Name, names, images, columns.Labels(t.Template.Labels)}
		},
	}.Resource()
}
