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

// Component is a part of the control plane.
type Component struct {
	Name string
	// Check returns what is wrong with it.
	Check func(ctx context.Context) error
}

func (c *Component) status(ctx context.Context) apis.Object {
	healthy := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err := c.Check(ctx); err != nil {
		healthy.Status, healthy.Message = corev1.ConditionFalse, err.Error()
	}
	return &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: c.Name}, Conditions: []corev1.ComponentCondition{healthy}}
}

// componentStatuses is a deprecated view of the health of the control plane's
// parts, which is also at /livez and /readyz.
func componentStatuses(components []Component) *apis.Resource {
	return apis.Of[*corev1.ComponentStatus]{
		Names:   apis.Names{Resource: "componentstatuses", Singular: "componentstatus", Kind: "ComponentStatus", ShortNames: []string{"cs"}},
		Version: "v1",
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
			Get: func(ctx context.Context, _, name string) (apis.Object, error) {
				for i := range components {
					if components[i].Name == name {
						return components[i].status(ctx), nil
					}
				}
				return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "componentstatus"}, name)
			},
			List: func(ctx context.Context, _ string) ([]apis.Object, error) {
				list := make([]apis.Object, len(components))
				for i := range components {
					list[i] = components[i].status(ctx)
				}
				return list, nil
			},
		},
	}.Resource()
}
