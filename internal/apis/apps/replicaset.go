package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func replicaSet() *apis.Resource {
	return apis.Of[*appsv1.ReplicaSet]{
		Names: apis.Names{
			Group: "apps", Resource: "replicasets", Singular: "replicaset", Kind: "ReplicaSet",
			ShortNames: []string{"rs"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *appsv1.ReplicaSet { return &appsv1.ReplicaSet{} },
		NewList:    func() runtime.Object { return &appsv1.ReplicaSetList{} },
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
