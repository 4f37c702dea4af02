package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func mutatingAdmissionPolicyBinding() *apis.Resource {
	return apis.Of[*admissionregistrationv1.MutatingAdmissionPolicyBinding]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "mutatingadmissionpolicybindings", Singular: "mutatingadmissionpolicybinding", Kind: "MutatingAdmissionPolicyBinding",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.MutatingAdmissionPolicyBinding {
			return &admissionregistrationv1.MutatingAdmissionPolicyBinding{}
		},
		NewList:    func() runtime.Object { return &admissionregistrationv1.MutatingAdmissionPolicyBindingList{} },
		Generation: true,
	}.Resource()
}
