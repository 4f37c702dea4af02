// Package x509 authenticates by client certificates: the common name is the
// user, the organizations are the groups.
package x509

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"time"

	"k8s.io/utils/clock"

	"skiff/internal/identity"
)

// credentialID is the user's extra key under which it is said which credential
// was used.
const credentialID = "authentication.kubernetes.io/credential-id"

// Authenticator implements authn.Authenticator.
type Authenticator struct {
	// Roots are the authorities whose clients are trusted.
	Roots *x509.CertPool
	Clock clock.PassiveClock
}

// Authenticate implements authn.Authenticator.
func (a *Authenticator) Authenticate(r *http.Request) (*identity.User, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, nil
	}
	leaf := r.TLS.PeerCertificates[0]
	if err := Verify(r.TLS.PeerCertificates, a.Roots, a.Clock.Now()); err != nil {
		return nil, err
	}
	if leaf.Subject.CommonName == "" {
		return nil, nil
	}
	uid, err := uidOf(leaf)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(leaf.Raw)
	return &identity.User{
		Name: leaf.Subject.CommonName, UID: uid,
		Groups: append(slices.Clip(leaf.Subject.Organization), identity.GroupAuthenticated),
		Extra:  map[string][]string{credentialID: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
	}, nil
}

// Verify checks a client's chain against roots.
func Verify(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	o := x509.VerifyOptions{
		Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	leaf := chain[0]
	if _, err := leaf.Verify(o); err != nil {
		return fmt.Errorf("verifying certificate %q issued by %q failed: %w", leaf.Subject, leaf.Issuer, err)
	}
	return nil
}

// uidOf returns the user's UID that the subject may hold, by the attribute that
// Kubernetes has registered for it (KEP-5301).
func uidOf(leaf *x509.Certificate) (string, error) {
	oid := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}
	var uids []string
	for _, name := range leaf.Subject.Names {
		if !name.Type.Equal(oid) {
			continue
		}
		uid, ok := name.Value.(string)
		if !ok {
			return "", fmt.Errorf("unable to parse UID from certificate: value is a %T", name.Value)
		}
		uids = append(uids, uid)
	}
	switch {
	case len(uids) == 0:
		return "", nil
	case len(uids) > 1:
		return "", fmt.Errorf("expected 1 UID, but found multiple: %q", uids)
	case uids[0] == "":
		return "", fmt.Errorf("UID cannot be an empty string")
	}
	return uids[0], nil
}
