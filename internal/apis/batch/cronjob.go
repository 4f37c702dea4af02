package batch

import (
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func cronJob() *apis.Resource {
	return apis.Of[*batchv1.CronJob]{
		Names: apis.Names{
			Group: "batch", Resource: "cronjobs", Singular: "cronjob", Kind: "CronJob",
			ShortNames: []string{"cj"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *batchv1.CronJob { return &batchv1.CronJob{} },
		NewList:    func() runtime.Object { return &batchv1.CronJobList{} },
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
