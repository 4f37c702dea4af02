// Package serviceaccount issues and reads the tokens by which service accounts
// prove who they are (KEP-1205, KEP-4193): signed, for an audience, for a time,
// and mostly bound to a pod, a secret or a node, with which they end.
package serviceaccount

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Claims are what a token says.
type Claims struct {
	jwt.Claims
	Audience   Audiences `json:"aud,omitempty"`
	Kubernetes Binding   `json:"kubernetes.io"`
	// Legacy tells a token of a Secret.
	Legacy bool `json:"-"`
}

// Audiences are written as a list even if there is only one, which readers of
// upstream's tokens rely on.
type Audiences []string

// UnmarshalJSON reads a list, or one alone.
func (a *Audiences) UnmarshalJSON(data []byte) error {
	return (*jwt.Audience)(a).UnmarshalJSON(data)
}

// Binding says whose token it is, and what it ends with.
type Binding struct {
	Namespace      string `json:"namespace,omitempty"`
	Node           *Ref   `json:"node,omitempty"`
	Pod            *Ref   `json:"pod,omitempty"`
	Secret         *Ref   `json:"secret,omitempty"`
	ServiceAccount Ref    `json:"serviceaccount,omitempty"`
	// WarnAfter is when the holder should have got itself a newer one.
	WarnAfter *jwt.NumericDate `json:"warnafter,omitempty"`
}

// Ref names one life of an object.
type Ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// Issuer signs tokens.
type Issuer struct {
	// URL is the tokens' issuer, and their audience if they are asked for
	// without one.
	URL string
	// MaxLifetime bounds what requests may ask for; 0 does not.
	MaxLifetime time.Duration
	signer      jose.Signer
	// keys are the public keys that tokens of this issuer may be signed with,
	// the one in use first.
	keys []jose.JSONWebKey
}

// NewIssuer returns an issuer that signs with key. Tokens that were signed with
// one of the others are still to be accepted.
func NewIssuer(url string, key crypto.Signer, others ...crypto.PublicKey) (*Issuer, error) {
	keys, err := publicKeys(append([]crypto.PublicKey{key.Public()}, others...))
	if err != nil {
		return nil, err
	}
	used := keys[0]
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.SignatureAlgorithm(used.Algorithm),
		Key:       jose.JSONWebKey{Algorithm: used.Algorithm, Key: key, KeyID: used.KeyID, Use: "sig"},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("service account key: %w", err)
	}
	return &Issuer{URL: url, signer: signer, keys: keys}, nil
}

// publicKeys returns the keys with their names: hashes of themselves, as
// upstream's.
func publicKeys(keys []crypto.PublicKey) ([]jose.JSONWebKey, error) {
	var out []jose.JSONWebKey
	for _, key := range keys {
		algorithm, err := algorithmOf(key)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, fmt.Errorf("service account key: %w", err)
		}
		sum := sha256.Sum256(der)
		out = append(out, jose.JSONWebKey{
			Algorithm: string(algorithm), Key: key, Use: "sig", KeyID: base64.RawURLEncoding.EncodeToString(sum[:]),
		})
	}
	return out, nil
}

func algorithmOf(key crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return jose.RS256, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return jose.ES256, nil
		case elliptic.P384():
			return jose.ES384, nil
		case elliptic.P521():
			return jose.ES512, nil
		}
	}
	return "", fmt.Errorf("service account key: a %T cannot be used, it must be RSA or ECDSA on P-256, P-384 or P-521", key)
}

// Issue signs the claims; the issuer is set here.
func (i *Issuer) Issue(c Claims) (string, error) {
	c.Issuer = i.URL
	return jwt.Signed(i.signer).Claims(c).Serialize()
}

// Verifier reads tokens of one issuer.
type Verifier struct {
	// Issuers are the accepted issuers; the first is the one that is in use.
	Issuers []string
	keys    []jose.JSONWebKey
}

// NewVerifier returns a verifier of tokens signed by any of the keys.
func NewVerifier(issuers []string, keys ...crypto.PublicKey) (*Verifier, error) {
	public, err := publicKeys(keys)
	return &Verifier{Issuers: issuers, keys: public}, err
}

// ErrNotOurs tells that a token is not a service account token of this
// cluster, so that somebody else may know it.
var ErrNotOurs = errors.New("not a service account token of this cluster")

// Verify checks who issued the token and that the signature is good, and
// nothing else.
func (v *Verifier) Verify(token string) (*Claims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.RS256})
	if err != nil {
		return nil, ErrNotOurs
	}
	var unsafe jwt.Claims
	err = parsed.UnsafeClaimsWithoutVerification(&unsafe)
	legacy := unsafe.Issuer == LegacyIssuer
	if err != nil || !legacy && !slices.Contains(v.Issuers, unsafe.Issuer) {
		return nil, ErrNotOurs
	}
	id := parsed.Headers[0].KeyID
	for i := range v.keys {
		if (id != "" && id != v.keys[i].KeyID) || parsed.Headers[0].Algorithm != v.keys[i].Algorithm {
			continue
		}
		if legacy {
			claims, err := readLegacy(parsed, v.keys[i])
			if errors.Is(err, jose.ErrCryptoFailure) {
				continue
			}
			return claims, err
		}
		var claims Claims
		if err := parsed.Claims(v.keys[i].Key, &claims); err == nil {
			return &claims, nil
		}
	}
	return nil, errors.New("invalid signature")
}

// CheckTime returns an error in upstream's words if the token has ended or not
// begun.
func (c *Claims) CheckTime(now time.Time) error {
	err := c.ValidateWithLeeway(jwt.Expected{Time: now}, jwt.DefaultLeeway)
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return errors.New("service account token has expired")
	case errors.Is(err, jwt.ErrNotValidYet), errors.Is(err, jwt.ErrIssuedInTheFuture):
		return errors.New("service account token is not valid yet")
	case err != nil:
		return fmt.Errorf("service account token claims could not be validated: %w", err)
	}
	return nil
}

// KeySet returns the public keys as a JWKS document.
func (i *Issuer) KeySet() ([]byte, error) {
	return json.Marshal(jose.JSONWebKeySet{Keys: i.keys})
}
