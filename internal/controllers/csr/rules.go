package csr

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
)

const (
	nodeGroup = "system:nodes"
	nodeUser  = "system:node:"
)

// legacySigner signs whatever was approved.
const legacySigner = "kubernetes.io/legacy-unknown"

// validate checks a request by the rules of its signer (Certificate Signing
// Requests documentation, "Kubernetes signers"); ours is false for signers
// that are someone else's.
func validate(signer string, r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) (ours bool, err error) {
	switch signer {
	case certificatesv1.KubeAPIServerClientSignerName:
		return true, validateClient(usages)
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return true, validateKubeletClient(r, usages)
	case certificatesv1.KubeletServingSignerName:
		return true, validateKubeletServing(r, usages)
	case legacySigner:
		return true, nil
	}
	return false, nil
}

func validateClient(usages []certificatesv1.KeyUsage) error {
	for _, u := range usages {
		if !only([]certificatesv1.KeyUsage{u}, certificatesv1.UsageClientAuth) {
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
		return fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return nil
}

func validateKubeletClient(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case len(r.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(r.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	}
	return validateNode(r, usages, certificatesv1.UsageClientAuth)
}

func validateKubeletServing(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if len(r.DNSNames) == 0 && len(r.IPAddresses) == 0 {
		return errors.New("DNS or IP subjectAltName is required")
	}
	return validateNode(r, usages, certificatesv1.UsageServerAuth)
}

func validateNode(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(r.Subject.Organization, []string{nodeGroup}):
		return fmt.Errorf("subject organization is not %s", nodeGroup)
	case !strings.HasPrefix(r.Subject.CommonName, nodeUser) || r.Subject.CommonName == nodeUser:
		return fmt.Errorf("subject common name does not begin with %s", nodeUser)
	case len(r.EmailAddresses) > 0:
		return errors.New("email subjectAltNames are not allowed")
	case len(r.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	case !slices.Contains(usages, purpose) || !slices.Contains(usages, certificatesv1.UsageDigitalSignature) || !only(usages, purpose):
		want := []string{string(certificatesv1.UsageDigitalSignature), string(certificatesv1.UsageKeyEncipherment), string(purpose)}
		slices.Sort(want)
		return fmt.Errorf("usages did not match %v", want)
	}
	return nil
}

// only reports whether there are no usages but purpose and those of the key.
func only(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) bool {
	for _, u := range usages {
		if u != purpose && u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment {
			return false
		}
	}
	return true
}

// ownNames reports whether the request asks for nothing but the node's name and
// addresses.
func ownNames(r *x509.CertificateRequest, node *corev1.Node) bool {
	known := map[string]bool{node.Name: true}
	for _, a := range node.Status.Addresses {
		known[a.Address] = true
	}
	for _, name := range r.DNSNames {
		if !known[name] {
			return false
		}
	}
	for _, ip := range r.IPAddresses {
		if !known[ip.String()] {
			return false
		}
	}
	return true
}

// How long requests are kept after the last that happened to them.
const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

// expiresIn returns how long the request is still kept; it is not positive
// when it is over: signed, denied or failed for keepDecided, without any
// condition for keepPending, or with a certificate that expired. Of others ends
// is false: somebody else's signer may take its time.
func expiresIn(csr *certificatesv1.CertificateSigningRequest, now time.Time) (left time.Duration, ends bool) {
	var end time.Time
	until := func(t time.Time) {
		if end.IsZero() || t.Before(end) {
			end = t
		}
	}
	if len(csr.Status.Conditions) == 0 {
		until(csr.CreationTimestamp.Add(keepPending))
	}
	signed := len(csr.Status.Certificate) > 0
	for _, c := range csr.Status.Conditions {
		if c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed || c.Type == certificatesv1.CertificateApproved && signed {
			until(c.LastUpdateTime.Add(keepDecided))
		}
	}
	if block, _ := pem.Decode(csr.Status.Certificate); block != nil {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			until(c.NotAfter)
		}
	}
	return end.Sub(now), !end.IsZero()
}

func has(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == kind })
}
