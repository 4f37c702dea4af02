package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func daemonSet() *apis.Resource {
	return apis.Of[*appsv1.DaemonSet]{
		Names: apis.Names{
			Group: "apps", Resource: "daemonsets", Singular: "daemonset", Kind: "DaemonSet",
			ShortNames: []string{"ds"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *appsv1.DaemonSet { return &appsv1.DaemonSet{} },
		NewList:    func() runtime.Object { return &appsv1.DaemonSetList{} },
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
