// Package admissionregistration declares the resources of the API group admissionregistration.k8s.io.
package admissionregistration

import (
	"skiff/internal/apis"
	"skiff/internal/apiserver/cel"
)

// Resources returns fresh declarations of the group's resources.
func Resources(g Grants) []*apis.Resource {
	admission := cel.NewAdmission(nil)
	return []*apis.Resource{
		mutatingAdmissionPolicy(admission, g),
		mutatingAdmissionPolicyBinding(g),
		mutatingWebhookConfiguration(admission),
		validatingAdmissionPolicy(admission, g),
		validatingAdmissionPolicyBinding(g),
		validatingWebhookConfiguration(admission),
	}
}
