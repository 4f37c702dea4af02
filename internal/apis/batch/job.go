package batch

import (
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func job() *apis.Resource {
	return apis.Of[*batchv1.Job]{
		Names: apis.Names{
			Group: "batch", Resource: "jobs", Singular: "job", Kind: "Job",
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *batchv1.Job { return &batchv1.Job{} },
		NewList:    func() runtime.Object { return &batchv1.JobList{} },
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
