package serviceaccount

import (
	"errors"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
)

// LegacyIssuer is the issuer of tokens that live in Secrets. They have no
// audience and no end of their own: such a token is good as long as its account
// exists and the Secret holds it.
const LegacyIssuer = "kubernetes/serviceaccount"

// legacyClaims are what such a token says.
type legacyClaims struct {
	jwt.Claims
	Namespace   string `json:"kubernetes.io/serviceaccount/namespace"`
	Secret      string `json:"kubernetes.io/serviceaccount/secret.name"`
	AccountName string `json:"kubernetes.io/serviceaccount/service-account.name"`
	AccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid"`
}

// IssueForSecret makes the token of the account that the Secret is to hold.
func (i *Issuer) IssueForSecret(account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	return jwt.Signed(i.signer).Claims(legacyClaims{
		Claims:    jwt.Claims{Issuer: LegacyIssuer, Subject: Username(account.Namespace, account.Name)},
		Namespace: account.Namespace, Secret: secret.Name, AccountName: account.Name, AccountUID: string(account.UID),
	}).Serialize()
}

// readLegacy verifies the token with the key. The claims name the Secret
// without saying which life of it.
func readLegacy(token *jwt.JSONWebToken, key jose.JSONWebKey) (*Claims, error) {
	var c legacyClaims
	if err := token.Claims(key.Key, &c); err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"sub": c.Subject, "namespace": c.Namespace, "secretName": c.Secret, "serviceAccountName": c.AccountName, "serviceAccountUID": c.AccountUID} {
		if value == "" {
			return nil, errors.New(name + " claim is missing")
		}
	}
	if c.Subject != Username(c.Namespace, c.AccountName) {
		return nil, errors.New("sub claim is invalid")
	}
	return &Claims{Claims: c.Claims, Legacy: true, Kubernetes: Binding{
		Namespace: c.Namespace, ServiceAccount: Ref{c.AccountName, c.AccountUID}, Secret: &Ref{Name: c.Secret},
	}}, nil
}
