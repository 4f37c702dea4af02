package certificates

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis/checks"
)

const (
	// minExpirationSeconds is the shortest life a client may ask for.
	minExpirationSeconds = 10 * 60
	// maxSignerName is two DNS subdomains' worth: domain and path.
	maxSignerName = 253 + 1 + 63
	legacySigner  = "kubernetes.io/legacy-unknown"
)

func validateRequest(_ context.Context, r *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if err := checkRequest(r.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(path.Child("request"), r.Spec.Request, fmt.Sprintf("%v", err)))
	}
	errs = append(errs, validateUsages(r.Spec.Usages, path.Child("usages"))...)
	if r.Spec.SignerName == legacySigner {
		errs = append(errs, field.Invalid(path.Child("signerName"), r.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	}
	errs = append(errs, validateSignerName(r.Spec.SignerName, path.Child("signerName"))...)
	if e := r.Spec.ExpirationSeconds; e != nil && *e < minExpirationSeconds {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *e, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return append(errs, validateConditions(r.Status.Conditions, nil)...)
}

// checkRequest parses a PKCS #10 request in PEM and checks its signature.
func checkRequest(encoded []byte) error {
	block, rest := pem.Decode(encoded)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return errors.New("only one CERTIFICATE REQUEST PEM block is allowed")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return request.CheckSignature()
}

func validateUsages(usages []certificatesv1.KeyUsage, path *field.Path) field.ErrorList {
	if len(usages) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	known := []certificatesv1.KeyUsage{
		certificatesv1.UsageAny, certificatesv1.UsageCRLSign, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth,
		certificatesv1.UsageCodeSigning, certificatesv1.UsageContentCommitment, certificatesv1.UsageDataEncipherment,
		certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection,
		certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
		certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
		certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning,
		certificatesv1.UsageSMIME, certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
	}
	var errs field.ErrorList
	seen := map[certificatesv1.KeyUsage]bool{}
	for i, usage := range usages {
		errs = append(errs, checks.Enum(usage, path.Index(i), known...)...)
		if seen[usage] {
			errs = append(errs, field.Duplicate(path.Index(i), usage))
		}
		seen[usage] = true
	}
	return errs
}

// validateSignerName demands a domain, one slash and a path, each made of DNS
// names.
func validateSignerName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	domain, rest, found := strings.Cut(name, "/")
	if !found || strings.Contains(rest, "/") {
		return field.ErrorList{field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	var errs field.ErrorList
	for _, msg := range utilvalidation.IsDNS1123Subdomain(domain) {
		errs = append(errs, field.Invalid(path, domain, fmt.Sprintf("validating label %q: %s", domain, msg)))
	}
	if len(strings.Split(domain, ".")) < 2 {
		errs = append(errs, field.Invalid(path, domain, "should be a domain with at least two segments separated by dots"))
	}
	for _, msg := range utilvalidation.IsDNS1123Subdomain(rest) {
		errs = append(errs, field.Invalid(path, rest, fmt.Sprintf("validating label %q: %s", rest, msg)))
	}
	if len(name) > maxSignerName {
		errs = append(errs, field.TooLong(path, name, maxSignerName))
	}
	return errs
}

// validateConditions checks the conditions of a request: a decision once made
// stays, and there is only one.
func validateConditions(conditions, old []certificatesv1.CertificateSigningRequestCondition) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "conditions")
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range conditions {
		at := path.Index(i)
		if c.Type == "" {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		if isDecision(c.Type) || c.Type == certificatesv1.CertificateFailed {
			if c.Status == "" {
				errs = append(errs, field.Required(at.Child("status"), ""))
			} else if c.Status != corev1.ConditionTrue {
				errs = append(errs, field.NotSupported(at.Child("status"), c.Status, []corev1.ConditionStatus{corev1.ConditionTrue}))
			}
		} else {
			errs = append(errs, checks.Enum(c.Status, at.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
		}
		if seen[c.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), c.Type))
		}
		seen[c.Type] = true
	}
	if seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied] {
		errs = append(errs, field.Invalid(path, certificatesv1.CertificateDenied, "Approved and Denied conditions are mutually exclusive"))
	}
	for _, c := range old {
		if (isDecision(c.Type) || c.Type == certificatesv1.CertificateFailed) && !seen[c.Type] {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not remove a condition of type %q", c.Type)))
		}
	}
	return errs
}

// validateCertificate lets a certificate be issued once.
func validateCertificate(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	path := field.NewPath("status", "certificate")
	is, was := r.Status.Certificate, old.Status.Certificate
	switch {
	case bytes.Equal(is, was):
		return nil
	case len(was) > 0 && len(is) > 0:
		return field.ErrorList{field.Forbidden(path, "updates may not set the certificate if it is already set")}
	case len(was) > 0:
		return field.ErrorList{field.Forbidden(path, "updates may not clear the certificate")}
	}
	var errs field.ErrorList
	for found := false; ; found = true {
		block, rest := pem.Decode(is)
		if block == nil {
			if !found {
				errs = append(errs, field.Invalid(path, "<certificate data>", "must contain at least one CERTIFICATE PEM block"))
			}
			return errs
		}
		if block.Type != "CERTIFICATE" {
			return append(errs, field.Invalid(path, "<certificate data>", fmt.Sprintf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)))
		}
		if len(block.Headers) != 0 {
			return append(errs, field.Invalid(path, "<certificate data>", "no PEM block headers are permitted"))
		}
		if _, err := x509.ParseCertificates(block.Bytes); err != nil {
			return append(errs, field.Invalid(path, "<certificate data>", fmt.Sprintf("invalid certificate: %v", err)))
		}
		is = rest
	}
}
