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
	"sync"
	"time"

	"k8s.io/utils/clock"

	"skiff/internal/identity"
)

// credentialID is the user's extra key under which it is said which credential
// was used.
const credentialID = "authentication.kubernetes.io/credential-id"

// remembered is how many verified certificates are kept.
const remembered = 4096

// Authenticator implements authn.Authenticator. It verifies a certificate once,
// not for each request.
type Authenticator struct {
	// Roots are the authorities whose clients are trusted.
	Roots *x509.CertPool
	Clock clock.PassiveClock

	mu struct {
		sync.RWMutex
		// verified holds only certificates that one of Roots has signed, by
		// their hash.
		verified map[[sha256.Size]byte]holder
	}
}

// holder is whom a verified certificate stands for; nobody if user is nil.
type holder struct {
	user *identity.User
	// from and until bound the time in which the whole chain is good.
	from, until time.Time
}

// Authenticate implements authn.Authenticator.
func (a *Authenticator) Authenticate(r *http.Request) (*identity.User, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, nil
	}
	leaf := r.TLS.PeerCertificates[0]
	sum, now := sha256.Sum256(leaf.Raw), a.Clock.Now()
	a.mu.RLock()
	h, ok := a.mu.verified[sum]
	a.mu.RUnlock()
	if ok && !now.Before(h.from) && now.Before(h.until) {
		return h.user, nil
	}
	chain, err := verify(r.TLS.PeerCertificates, a.Roots, now)
	if err != nil {
		return nil, err
	}
	h = holder{from: leaf.NotBefore, until: leaf.NotAfter}
	for _, c := range chain {
		if c.NotBefore.After(h.from) {
			h.from = c.NotBefore
		}
		if c.NotAfter.Before(h.until) {
			h.until = c.NotAfter
		}
	}
	if h.user, err = userOf(leaf, sum); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.verified == nil || len(a.mu.verified) >= remembered {
		a.mu.verified = map[[sha256.Size]byte]holder{}
	}
	a.mu.verified[sum] = h
	return h.user, nil
}

func userOf(leaf *x509.Certificate, sum [sha256.Size]byte) (*identity.User, error) {
	if leaf.Subject.CommonName == "" {
		return nil, nil
	}
	uid, err := uidOf(leaf)
	if err != nil {
		return nil, err
	}
	return &identity.User{
		Name: leaf.Subject.CommonName, UID: uid,
		Groups: append(slices.Clip(leaf.Subject.Organization), identity.GroupAuthenticated),
		Extra:  map[string][]string{credentialID: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
	}, nil
}

// Verify checks a client's chain against roots.
func Verify(presented []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	_, err := verify(presented, roots, now)
	return err
}

// verify returns a chain from the client's certificate to one of roots.
func verify(presented []*x509.Certificate, roots *x509.CertPool, now time.Time) ([]*x509.Certificate, error) {
	o := x509.VerifyOptions{
		Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range presented[1:] {
		o.Intermediates.AddCert(c)
	}
	leaf := presented[0]
	chains, err := leaf.Verify(o)
	if err != nil {
		return nil, fmt.Errorf("verifying certificate %q issued by %q failed: %w", leaf.Subject, leaf.Issuer, err)
	}
	return chains[0], nil
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
