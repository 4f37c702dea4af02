// Package admissionregistration declares the resources of the API group admissionregistration.k8s.io.
package admissionregistration

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		mutatingAdmissionPolicy(),
		mutatingAdmissionPolicyBinding(),
		mutatingWebhookConfiguration(),
		validatingAdmissionPolicy(),
		validatingAdmissionPolicyBinding(),
		validatingWebhookConfiguration(),
	}
}
