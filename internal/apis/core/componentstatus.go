package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

// componentStatuses is a deprecated view of the control plane's daemons. Skiff
// has none apart from the server itself, whose health is at /livez and
// /readyz, so the list is empty.
func componentStatuses() *apis.Resource {
	return apis.Of[*corev1.ComponentStatus]{
		Names:   apis.Names{Resource: "componentstatuses", Singular: "componentstatus", Kind: "ComponentStatus", ShortNames: []string{"cs"}},
		Version: "v1",
		Verbs:   []string{"get", "list"},
		New:     func() *corev1.ComponentStatus { return &corev1.ComponentStatus{} },
		NewList: func() runtime.Object { return &corev1.ComponentStatusList{} },
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Status", "Status of the component conditions"),
			columns.String("Message", "Message of the component conditions"),
			columns.String("Error", "Error of the component conditions"),
		},
		Cells: func(c *corev1.ComponentStatus) []any {
			status, message, problem := "Unknown", "", ""
			for _, condition := range c.Conditions {
				if condition.Type != corev1.ComponentHealthy {
					continue
				}
				status = "Unhealthy"
				if condition.Status == corev1.ConditionTrue {
					status = "Healthy"
				}
				message, problem = condition.Message, condition.Error
			}
			return []any{c.Name, status, message, problem}
		},
		Virtual: &apis.Virtual{
			Get: func(_ context.Context, _, name string) (apis.Object, error) {
				return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "componentstatuses"}, name)
			},
			List: func(context.Context, string) ([]apis.Object, error) { return nil, nil },
		},
	}.Resource()
}
