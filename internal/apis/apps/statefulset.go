package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func statefulSet() *apis.Resource {
	return apis.Of[*appsv1.StatefulSet]{
		Names: apis.Names{
			Group: "apps", Resource: "statefulsets", Singular: "statefulset", Kind: "StatefulSet",
			ShortNames: []string{"sts"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *appsv1.StatefulSet { return &appsv1.StatefulSet{} },
		NewList:    func() runtime.Object { return &appsv1.StatefulSetList{} },
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
