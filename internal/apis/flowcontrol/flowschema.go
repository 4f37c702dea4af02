package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func flowSchema() *apis.Resource {
	return apis.Of[*flowcontrolv1.FlowSchema]{
		Names: apis.Names{
			Group: "flowcontrol.apiserver.k8s.io", Resource: "flowschemas", Singular: "flowschema", Kind: "FlowSchema",
		},
		Version:    "v1",
		New:        func() *flowcontrolv1.FlowSchema { return &flowcontrolv1.FlowSchema{} },
		NewList:    func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} },
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
