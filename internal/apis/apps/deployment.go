package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func deployment() *apis.Resource {
	return apis.Of[*appsv1.Deployment]{
		Names: apis.Names{
			Group: "apps", Resource: "deployments", Singular: "deployment", Kind: "Deployment",
			ShortNames: []string{"deploy"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *appsv1.Deployment { return &appsv1.Deployment{} },
		NewList:    func() runtime.Object { return &appsv1.DeploymentList{} },
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
