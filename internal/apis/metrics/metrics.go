// Package metrics declares the API group metrics.k8s.io: what nodes and pods
// use at present. Its objects are not stored; a Source makes them when asked.
package metrics

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

// Source knows the usage. Errors are API errors.
type Source interface {
	Node(ctx context.Context, name string) (*metricsv1beta1.NodeMetrics, error)
	Nodes(ctx context.Context) ([]*metricsv1beta1.NodeMetrics, error)
	Pod(ctx context.Context, namespace, name string) (*metricsv1beta1.PodMetrics, error)
	// Pods returns those of all namespaces if namespace is empty.
	Pods(ctx context.Context, namespace string) ([]*metricsv1beta1.PodMetrics, error)
}

// Resources returns the declarations of the group.
func Resources(s Source) []*apis.Resource {
	return []*apis.Resource{nodes(s), pods(s)}
}

const version = "v1beta1"

func nodes(s Source) *apis.Resource {
	return apis.Of[*metricsv1beta1.NodeMetrics]{
		Names:   apis.Names{Group: metricsv1beta1.GroupName, Resource: "nodes", Singular: "nodemetrics", Kind: "NodeMetrics"},
		Version: version,
		New:     func() *metricsv1beta1.NodeMetrics { return &metricsv1beta1.NodeMetrics{} },
		NewList: func() runtime.Object { return &metricsv1beta1.NodeMetricsList{} },
		Columns: tableColumns(),
		Cells: func(m *metricsv1beta1.NodeMetrics) []any {
			return cells(m.Name, m.Usage, m.Window.Duration)
		},
		Virtual: &apis.Virtual{
			Get: func(ctx context.Context, _, name string) (apis.Object, error) { return s.Node(ctx, name) },
			List: func(ctx context.Context, _ string) ([]apis.Object, error) {
				return objects(s.Nodes(ctx))
			},
		},
	}.Resource()
}

func pods(s Source) *apis.Resource {
	return apis.Of[*metricsv1beta1.PodMetrics]{
		Names:   apis.Names{Group: metricsv1beta1.GroupName, Resource: "pods", Singular: "podmetrics", Kind: "PodMetrics", Namespaced: true},
		Version: version,
		New:     func() *metricsv1beta1.PodMetrics { return &metricsv1beta1.PodMetrics{} },
		NewList: func() runtime.Object { return &metricsv1beta1.PodMetricsList{} },
		Columns: tableColumns(),
		Cells: func(m *metricsv1beta1.PodMetrics) []any {
			sum := corev1.ResourceList{}
			for i := range m.Containers {
				for name, q := range m.Containers[i].Usage {
					total := sum[name]
					total.Add(q)
					sum[name] = total
				}
			}
			return cells(m.Name, sum, m.Window.Duration)
		},
		Virtual: &apis.Virtual{
			Get: func(ctx context.Context, namespace, name string) (apis.Object, error) {
				return s.Pod(ctx, namespace, name)
			},
			List: func(ctx context.Context, namespace string) ([]apis.Object, error) {
				return objects(s.Pods(ctx, namespace))
			},
		},
	}.Resource()
}

func objects[T apis.Object](list []T, err error) ([]apis.Object, error) {
	out := make([]apis.Object, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out, err
}

// used are the resources that are measured.
var used = map[corev1.ResourceName]string{corev1.ResourceCPU: "CPU time per second", corev1.ResourceMemory: "Working set"}

func tableColumns() []metav1.TableColumnDefinition {
	list := []metav1.TableColumnDefinition{columns.Name()}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		list = append(list, columns.String(string(name), used[name]+", over the window."))
	}
	return append(list, columns.String("Window", "The time over which usage was measured."))
}

func cells(name string, usage corev1.ResourceList, window time.Duration) []any {
	row := []any{name}
	for _, r := range slices.Sorted(maps.Keys(used)) {
		q := usage[r]
		row = append(row, text(r, q))
	}
	return append(row, window.String())
}

// text rounds CPU to thousandths and memory to KiB.
func text(r corev1.ResourceName, q resource.Quantity) string {
	if r == corev1.ResourceCPU {
		return fmt.Sprintf("%dm", q.MilliValue())
	}
	return fmt.Sprintf("%dKi", q.Value()/1024)
}
