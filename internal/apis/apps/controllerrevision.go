package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func controllerRevision() *apis.Resource {
	return apis.Of[*appsv1.ControllerRevision]{
		Names: apis.Names{
			Group: "apps", Resource: "controllerrevisions", Singular: "controllerrevision", Kind: "ControllerRevision",
			Namespaced: true,
		},
		Version: "v1",
		New:     func() *appsv1.ControllerRevision { return &appsv1.ControllerRevision{} },
		NewList: func() runtime.Object { return &appsv1.ControllerRevisionList{} },
	}.Resource()
}
