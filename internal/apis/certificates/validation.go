package certificates

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
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
	legacySigner         = "kubernetes.io/legacy-unknown"
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
	} else {
		errs = append(errs, validateSignerName(r.Spec.SignerName, path.Child("signerName"))...)
	}
	if e := r.Spec.ExpirationSeconds; e != nil && *e < minExpirationSeconds {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *e, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return errs
}

// checkRequest parses a PKCS #10 request in PEM and checks its signature.
func checkRequest(encoded []byte) error {
	block, _ := pem.Decode(encoded)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
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
		certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth,
		certificatesv1.UsageCodeSigning, certificatesv1.UsageContentCommitment, certificatesv1.UsageCRLSign, certificatesv1.UsageDataEncipherment,
		certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection,
		certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
		certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
		certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning,
		certificatesv1.UsageSMIME, certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
	}
	var errs field.ErrorList
	seen := map[certificatesv1.KeyUsage]bool{}
	for i, usage := range usages {
		errs = append(errs, checks.Supported(usage, path.Index(i), known...)...)
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
	parts := strings.Split(name, "/")
	if len(parts) != 2 {
		return field.ErrorList{field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	var errs field.ErrorList
	// Only the first bad label is named.
	labels := func(part string, check func(string) []string) {
		for _, label := range strings.Split(part, ".") {
			if msgs := check(label); len(msgs) > 0 {
				for _, msg := range msgs {
					errs = append(errs, field.Invalid(path, part, fmt.Sprintf("validating label %q: %s", label, msg)))
				}
				return
			}
		}
	}
	const maxDomain, maxPath = utilvalidation.DNS1123SubdomainMaxLength, utilvalidation.DNS1123SubdomainMaxLength + 1 + utilvalidation.DNS1123LabelMaxLength
	if len(parts[0]) > maxDomain {
		errs = append(errs, field.TooLong(path, "", maxDomain))
	}
	labels(parts[0], utilvalidation.IsDNS1123Label)
	if !strings.Contains(parts[0], ".") {
		errs = append(errs, field.Invalid(path, parts[0], "should be a domain with at least two segments separated by dots"))
	}
	labels(parts[1], utilvalidation.IsDNS1123Subdomain)
	if len(name) > maxDomain+1+maxPath {
		errs = append(errs, field.TooLong(path, "", maxDomain+1+maxPath))
	}
	return errs
}

// validateConditions checks the conditions of a request. What the old ones
// break already, the new ones may break, too.
func validateConditions(conditions, old []condition) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "conditions")
	had := map[conditionType]int{}
	for _, c := range old {
		had[c.Type]++
	}
	hadTwice := slices.ContainsFunc(old, func(c condition) bool { return had[c.Type] > 1 })
	hadBoth := had[certificatesv1.CertificateApproved] > 0 && had[certificatesv1.CertificateDenied] > 0
	opposite := map[conditionType]conditionType{
		certificatesv1.CertificateApproved: certificatesv1.CertificateDenied, certificatesv1.CertificateDenied: certificatesv1.CertificateApproved,
	}
	seen := map[conditionType]bool{}
	for i, c := range conditions {
		at := path.Index(i)
		if c.Type == "" && had[""] == 0 {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		allowed := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		if isFinal(c.Type) {
			allowed = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		errs = append(errs, checks.Enum(c.Status, at.Child("status"), allowed...)...)
		if other, decides := opposite[c.Type]; decides && seen[other] && !hadBoth {
			errs = append(errs, field.Invalid(at.Child("type"), c.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		if seen[c.Type] && !hadTwice {
			errs = append(errs, field.Duplicate(at.Child("type"), c.Type))
		}
		seen[c.Type] = true
	}
	return errs
}

// validateKept demands that what was said about a request once stays.
func validateKept(conditions, old []condition) field.ErrorList {
	var errs field.ErrorList
	for _, t := range finalTypes {
		if len(ofType(conditions, t)) < len(ofType(old, t)) {
			errs = append(errs, field.Forbidden(field.NewPath("status", "conditions"), fmt.Sprintf("updates may not remove a condition of type %q", t)))
		}
	}
	return errs
}

// validateUndecided refuses decisions, which only approval makes.
func validateUndecided(conditions, old []condition) field.ErrorList {
	var errs field.ErrorList
	for _, t := range decisions {
		if len(ofType(conditions, t)) > len(ofType(old, t)) {
			errs = append(errs, field.Forbidden(field.NewPath("status", "conditions"), fmt.Sprintf("updates may not add a condition of type %q", t)))
		}
	}
	return errs
}

// validateCertificate lets a certificate be issued once.
func validateCertificate(is, was []byte) field.ErrorList {
	path := field.NewPath("status", "certificate")
	if bytes.Equal(is, was) {
		return nil
	}
	var errs field.ErrorList
	if err := checkCertificate(is); err != nil && checkCertificate(was) == nil {
		errs = append(errs, field.Invalid(path, "<certificate data>", err.Error()))
	}
	if len(was) > 0 {
		errs = append(errs, field.Forbidden(path, "updates may not modify existing certificate content"))
	}
	return errs
}

// checkCertificate parses one or more certificates in PEM; there may be none
// at all.
func checkCertificate(encoded []byte) error {
	if len(encoded) == 0 {
		return nil
	}
	for found := false; ; found = true {
		block, rest := pem.Decode(encoded)
		switch {
		case block == nil && !found:
			return errors.New("must contain at least one CERTIFICATE PEM block")
		case block == nil:
			return nil
		case block.Type != "CERTIFICATE":
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		case len(block.Headers) != 0:
			return errors.New("no PEM block headers are permitted")
		}
		certificates, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certificates) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		encoded = rest
	}
}
