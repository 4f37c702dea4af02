package autoscaling

import (
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

func horizontalPodAutoscaler() *apis.Resource {
	spec, status := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc(), autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()
	return apis.Of[*autoscalingv2.HorizontalPodAutoscaler]{
		Names: apis.Names{
			Group: "autoscaling", Resource: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler", Kind: "HorizontalPodAutoscaler",
			ShortNames: []string{"hpa"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version: "v2",
		New:     func() *autoscalingv2.HorizontalPodAutoscaler { return &autoscalingv2.HorizontalPodAutoscaler{} },
		NewList: func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },
		Other: []apis.Version{{
			Group: "autoscaling", Version: "v1", Kind: "HorizontalPodAutoscaler",
			New:     func() apis.Object { return &autoscalingv1.HorizontalPodAutoscaler{} },
			NewList: func() runtime.Object { return &autoscalingv1.HorizontalPodAutoscalerList{} },
			ToHub: func(o apis.Object) (apis.Object, error) {
				return fromV1(o.(*autoscalingv1.HorizontalPodAutoscaler)), nil
			},
			FromHub: func(o apis.Object) (apis.Object, error) {
				return toV1(o.(*autoscalingv2.HorizontalPodAutoscaler))
			},
		}},
		HasStatus:            true,
		Default:              defaultAutoscaler,
		Validate:             validateAutoscaler,
		ValidateUpdate:       validateAutoscalerUpdate,
		ValidateStatusUpdate: validateAutoscalerStatus,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Reference", spec["scaleTargetRef"]),
			columns.String("Targets", spec["metrics"]),
			columns.String("MinPods", spec["minReplicas"]),
			columns.String("MaxPods", spec["maxReplicas"]),
			columns.String("Replicas", status["currentReplicas"]),
			columns.AgeColumn(),
		},
		Cells: func(h *autoscalingv2.HorizontalPodAutoscaler) []any {
			minimum := "<unset>"
			if h.Spec.MinReplicas != nil {
				minimum = strconv.Itoa(int(*h.Spec.MinReplicas))
			}
			return []any{
				h.Name, h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name,
				metricsCell(h.Spec.Metrics, h.Status.CurrentMetrics), minimum,
				int64(h.Spec.MaxReplicas), int64(h.Status.CurrentReplicas), columns.Age(h.CreationTimestamp),
			}
		},
	}.Resource()
}

func defaultAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	s := &h.Spec
	fill.Pointer(&s.MinReplicas, 1)
	if len(s.Metrics) == 0 {
		utilization := int32(80)
		s.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &utilization},
			},
		}}
	}
	if s.Behavior == nil {
		return
	}
	// Up: at once, by four pods or double, whichever is more. Down: as far as
	// the recommendations of the controller's window go.
	fill.Pointer(&s.Behavior.ScaleUp, autoscalingv2.HPAScalingRules{})
	fill.Pointer(&s.Behavior.ScaleUp.StabilizationWindowSeconds, 0)
	defaultRules(s.Behavior.ScaleUp,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	fill.Pointer(&s.Behavior.ScaleDown, autoscalingv2.HPAScalingRules{})
	defaultRules(s.Behavior.ScaleDown,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
}

func defaultRules(r *autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	fill.Pointer(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if r.Policies == nil {
		r.Policies = policies
	}
}
