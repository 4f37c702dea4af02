package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func mutatingAdmissionPolicy() *apis.Resource {
	return apis.Of[*admissionregistrationv1.MutatingAdmissionPolicy]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "mutatingadmissionpolicies", Singular: "mutatingadmissionpolicy", Kind: "MutatingAdmissionPolicy",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.MutatingAdmissionPolicy {
			return &admissionregistrationv1.MutatingAdmissionPolicy{}
		},
		NewList:    func() runtime.Object { return &admissionregistrationv1.MutatingAdmissionPolicyList{} },
		Generation: true,
	}.Resource()
}
