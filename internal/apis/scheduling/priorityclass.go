package scheduling

import (
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func priorityClass() *apis.Resource {
	return apis.Of[*schedulingv1.PriorityClass]{
		Names: apis.Names{
			Group: "scheduling.k8s.io", Resource: "priorityclasses", Singular: "priorityclass", Kind: "PriorityClass",
			ShortNames: []string{"pc"},
		},
		Version: "v1",
		New:     func() *schedulingv1.PriorityClass { return &schedulingv1.PriorityClass{} },
		NewList: func() runtime.Object { return &schedulingv1.PriorityClassList{} },
	}.Resource()
}
