package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func validatingAdmissionPolicy() *apis.Resource {
	return apis.Of[*admissionregistrationv1.ValidatingAdmissionPolicy]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicies", Singular: "validatingadmissionpolicy", Kind: "ValidatingAdmissionPolicy",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.ValidatingAdmissionPolicy {
			return &admissionregistrationv1.ValidatingAdmissionPolicy{}
		},
		NewList:    func() runtime.Object { return &admissionregistrationv1.ValidatingAdmissionPolicyList{} },
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
