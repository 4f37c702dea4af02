package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func priorityLevelConfiguration() *apis.Resource {
	return apis.Of[*flowcontrolv1.PriorityLevelConfiguration]{
		Names: apis.Names{
			Group: "flowcontrol.apiserver.k8s.io", Resource: "prioritylevelconfigurations", Singular: "prioritylevelconfiguration", Kind: "PriorityLevelConfiguration",
		},
		Version:    "v1",
		New:        func() *flowcontrolv1.PriorityLevelConfiguration { return &flowcontrolv1.PriorityLevelConfiguration{} },
		NewList:    func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} },
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
