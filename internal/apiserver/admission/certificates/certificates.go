// Package certificates says who may approve and sign certificate requests, what
// nobody may ask for, and who may say whom a signer's clients trust
// (CertificateApproval, CertificateSigning, CertificateSubjectRestriction,
// ClusterTrustBundleAttest).
package certificates

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	"k8s.io/apimachinery/pkg/api/equality"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

const (
	group    = "certificates.k8s.io"
	resource = "certificatesigningrequests"
)

// Approval lets only those approve that have the verb approve on the signer.
type Approval struct{ Authorizer authz.Authorizer }

// Validate implements admission.Validator.
func (p *Approval) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Update || !a.Is(group, resource, "approval") {
		return nil
	}
	signer := a.Old.(*certificatesv1.CertificateSigningRequest).Spec.SignerName
	if !allowed(ctx, p.Authorizer, a.User, "approve", signer) {
		return a.Forbidden("user not permitted to approve requests with signerName %q", signer)
	}
	return nil
}

// Signing lets only those sign, or say anything else in the status, that have
// the verb sign on the signer.
type Signing struct{ Authorizer authz.Authorizer }

// Validate implements admission.Validator.
func (p *Signing) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Update || !a.Is(group, resource, "status") {
		return nil
	}
	request, old := a.Object.(*certificatesv1.CertificateSigningRequest), a.Old.(*certificatesv1.CertificateSigningRequest)
	if bytes.Equal(request.Status.Certificate, old.Status.Certificate) && equality.Semantic.DeepEqual(request.Status.Conditions, old.Status.Conditions) {
		return nil
	}
	if signer := old.Spec.SignerName; !allowed(ctx, p.Authorizer, a.User, "sign", signer) {
		return a.Forbidden("user not permitted to sign requests with signerName %q", signer)
	}
	return nil
}

// Attest lets only those write a signer's bundle that have the verb attest on
// the signer.
type Attest struct{ Authorizer authz.Authorizer }

// Validate implements admission.Validator.
func (p *Attest) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Create && a.Operation != admission.Update || !a.Is(group, "clustertrustbundles", "") {
		return nil
	}
	bundle := a.Object.(*certificatesv1beta1.ClusterTrustBundle)
	// An update cannot change the signer.
	signer := bundle.Spec.SignerName
	if signer == "" || a.Operation == admission.Update && sameBundle(bundle, a.Old.(*certificatesv1beta1.ClusterTrustBundle)) {
		return nil
	}
	if !allowed(ctx, p.Authorizer, a.User, "attest", signer) {
		return a.Forbidden("user not permitted to attest for signerName %q", signer)
	}
	return nil
}

// sameBundle reports whether nothing has changed but what a garbage collector
// changes.
func sameBundle(bundle, old *certificatesv1beta1.ClusterTrustBundle) bool {
	mine := *bundle
	mine.OwnerReferences, mine.Finalizers, mine.ManagedFields = old.OwnerReferences, old.Finalizers, old.ManagedFields
	return equality.Semantic.DeepEqual(&mine, old)
}

// allowed asks for the signer itself, and then for all of its domain.
func allowed(ctx context.Context, z authz.Authorizer, user *identity.User, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, _ := z.Authorize(ctx, &authz.Attributes{
			User: user, Verb: verb, Group: group, Version: "*", Resource: "signers", Name: name,
		})
		if decision == authz.Allow {
			return true
		}
	}
	return false
}

// Subject refuses requests for a client of the API server in system:masters,
// whom no role could limit.
type Subject struct{}

// Validate implements admission.Validator.
func (Subject) Validate(_ context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Create || !a.Is(group, resource, "") {
		return nil
	}
	request := a.Object.(*certificatesv1.CertificateSigningRequest)
	if request.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	parsed, err := parse(request.Spec.Request)
	if err != nil {
		return a.Forbidden("failed to parse CSR: %w", err)
	}
	if slices.Contains(parsed.Subject.Organization, identity.GroupMasters) {
		return a.Forbidden("use of %s signer with %s group is not allowed", request.Spec.SignerName, identity.GroupMasters)
	}
	return nil
}

func parse(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
