package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func certificateSigningRequest() *apis.Resource {
	return apis.Of[*certificatesv1.CertificateSigningRequest]{
		Names: apis.Names{
			Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Singular: "certificatesigningrequest", Kind: "CertificateSigningRequest",
			ShortNames: []string{"csr"},
		},
		Version:   "v1",
		New:       func() *certificatesv1.CertificateSigningRequest { return &certificatesv1.CertificateSigningRequest{} },
		NewList:   func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },
		HasStatus: true,
	}.Resource()
}
