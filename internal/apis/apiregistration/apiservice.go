package apiregistration

import (
	"k8s.io/apimachinery/pkg/runtime"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/internal/apis"
)

func apiService() *apis.Resource {
	return apis.Of[*apiregistrationv1.APIService]{
		Names: apis.Names{
			Group: "apiregistration.k8s.io", Resource: "apiservices", Singular: "apiservice", Kind: "APIService",
			Categories: []string{"api-extensions"},
		},
		Version:   "v1",
		New:       func() *apiregistrationv1.APIService { return &apiregistrationv1.APIService{} },
		NewList:   func() runtime.Object { return &apiregistrationv1.APIServiceList{} },
		Prefix:    "/registry/apiregistration.k8s.io/apiservices",
		HasStatus: true,
	}.Resource()
}
