// Package admissionregistration declares the resources of the API group admissionregistration.k8s.io.
package admissionregistration

import (
	"skiff/internal/apis"
	"skiff/internal/apiserver/cel"
)

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	admission := cel.NewAdmission(nil)
	return []*apis.Resource{
		mutatingAdmissionPolicy(admission),
		mutatingAdmissionPolicyBinding(),
		mutatingWebhookConfiguration(admission),
		validatingAdmissionPolicy(admission),
		validatingAdmissionPolicyBinding(),
		validatingWebhookConfiguration(admission),
	}
}
