// Package jointoken makes the bootstrap tokens with which machines join a
// cluster: Secrets of type bootstrap.kubernetes.io/token in kube-system, as
// upstream's "Authenticating with Bootstrap Tokens" describes them, and the hash
// by which a joining machine knows the cluster's certificate authority.
package jointoken

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespace is where the tokens' Secrets are.
const Namespace = "kube-system"

// DefaultTTL is how long a token lives unless it is said otherwise.
const DefaultTTL = 24 * time.Hour

// Token is a bootstrap token; its text form is id.secret.
type Token struct{ ID, Secret string }

var pattern = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

// Parse reads the text form.
func Parse(text string) (Token, error) {
	m := pattern.FindStringSubmatch(text)
	if m == nil {
		return Token{}, errors.New("a token looks like abcdef.0123456789abcdef: 6 and 16 small letters or digits with a dot between them")
	}
	return Token{ID: m[1], Secret: m[2]}, nil
}

// New returns a random token.
func New() Token { return Token{ID: random(6), Secret: random(16)} }

// random returns n letters and digits, each equally probable.
func random(n int) string {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyz"
	const fair = 256 - 256%len(letters)
	text := make([]byte, 0, n)
	for b := make([]byte, 2*n); len(text) < n; {
		rand.Read(b)
		for _, v := range b {
			if int(v) < fair && len(text) < n {
				text = append(text, letters[int(v)%len(letters)])
			}
		}
	}
	return string(text)
}

func (t Token) String() string { return t.ID + "." + t.Secret }

// SecretName is the name of the token's Secret.
func SecretName(id string) string { return "bootstrap-token-" + id }

// Object returns the Secret that makes the token valid for joining until
// expires; the zero time means for ever.
func (t Token) Object(description string, expires time.Time) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: SecretName(t.ID), Namespace: Namespace},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"token-id":                       t.ID,
			"token-secret":                   t.Secret,
			"usage-bootstrap-authentication": "true",
			"usage-bootstrap-signing":        "true",
		},
	}
	if description != "" {
		s.StringData["description"] = description
	}
	if !expires.IsZero() {
		s.StringData["expiration"] = expires.UTC().Format(time.RFC3339)
	}
	return s
}

// CAHash returns sha256:<hex> of the public key of the certificate in a PEM
// text, which a joining machine compares with the one it is shown.
func CAHash(pemText []byte) (string, error) {
	block, _ := pem.Decode(pemText)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", errors.New("the certificate authority's text holds no PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("reading the certificate authority's certificate: %w", err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
