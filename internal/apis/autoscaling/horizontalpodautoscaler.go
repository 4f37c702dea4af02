package autoscaling

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func horizontalPodAutoscaler() *apis.Resource {
	return apis.Of[*autoscalingv2.HorizontalPodAutoscaler]{
		Names: apis.Names{
			Group: "autoscaling", Resource: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler", Kind: "HorizontalPodAutoscaler",
			ShortNames: []string{"hpa"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:   "v2",
		New:       func() *autoscalingv2.HorizontalPodAutoscaler { return &autoscalingv2.HorizontalPodAutoscaler{} },
		NewList:   func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },
		HasStatus: true,
	}.Resource()
}
