// Package serviceaccount issues and reads the tokens by which service accounts
// prove who they are (KEP-1205, KEP-4193): signed, for an audience, for a time,
// and mostly bound to a pod, a secret or a node, with which they end.
package serviceaccount

import (
	"crypto/ecdsa"
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
	Kubernetes Binding `json:"kubernetes.io"`
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
	URL    string
	signer jose.Signer
	key    jose.JSONWebKey
}

// NewIssuer returns an issuer that signs with key.
func NewIssuer(url string, key *ecdsa.PrivateKey) (*Issuer, error) {
	public, err := publicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.ES256,
		Key:       jose.JSONWebKey{Algorithm: string(jose.ES256), Key: key, KeyID: public.KeyID, Use: "sig"},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("service account key: %w", err)
	}
	return &Issuer{URL: url, signer: signer, key: public}, nil
}

// publicKey returns the key with its name: a hash of itself, as upstream's.
func publicKey(key *ecdsa.PublicKey) (jose.JSONWebKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return jose.JSONWebKey{}, fmt.Errorf("service account key: %w", err)
	}
	sum := sha256.Sum256(der)
	return jose.JSONWebKey{
		Algorithm: string(jose.ES256), Key: key, Use: "sig", KeyID: base64.RawURLEncoding.EncodeToString(sum[:]),
	}, nil
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
func NewVerifier(issuers []string, keys ...*ecdsa.PublicKey) (*Verifier, error) {
	v := &Verifier{Issuers: issuers}
	for _, key := range keys {
		public, err := publicKey(key)
		if err != nil {
			return nil, err
		}
		v.keys = append(v.keys, public)
	}
	return v, nil
}

// ErrNotOurs tells that a token is not a service account token of this
// cluster, so that somebody else may know it.
var ErrNotOurs = errors.New("not a service account token of this cluster")

// Verify checks who issued the token and that the signature is good, and
// nothing else.
func (v *Verifier) Verify(token string) (*Claims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, ErrNotOurs
	}
	var unsafe jwt.Claims
	if err := parsed.UnsafeClaimsWithoutVerification(&unsafe); err != nil || !slices.Contains(v.Issuers, unsafe.Issuer) {
		return nil, ErrNotOurs
	}
	id := parsed.Headers[0].KeyID
	for i := range v.keys {
		if id != "" && id != v.keys[i].KeyID {
			continue
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

// KeySet returns the public key as a JWKS document.
func (i *Issuer) KeySet() ([]byte, error) {
	return json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{i.key}})
}
