package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func mutatingWebhookConfiguration() *apis.Resource {
	return apis.Of[*admissionregistrationv1.MutatingWebhookConfiguration]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations", Singular: "mutatingwebhookconfiguration", Kind: "MutatingWebhookConfiguration",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.MutatingWebhookConfiguration {
			return &admissionregistrationv1.MutatingWebhookConfiguration{}
		},
		NewList:    func() runtime.Object { return &admissionregistrationv1.MutatingWebhookConfigurationList{} },
		Generation: true,
	}.Resource()
}
