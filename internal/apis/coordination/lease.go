package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func lease() *apis.Resource {
	return apis.Of[*coordinationv1.Lease]{
		Names: apis.Names{
			Group: "coordination.k8s.io", Resource: "leases", Singular: "lease", Kind: "Lease",
			Namespaced: true,
		},
		Version: "v1",
		New:     func() *coordinationv1.Lease { return &coordinationv1.Lease{} },
		NewList: func() runtime.Object { return &coordinationv1.LeaseList{} },
	}.Resource()
}
