package jwt

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/utils/clock"
)

// Flags trust one issuer: they are the short form of a configuration.
type Flags struct {
	IssuerURL, ClientID, CAFile   string
	UsernameClaim, UsernamePrefix string
	GroupsClaim, GroupsPrefix     string
	SigningAlgs                   []string
	RequiredClaims                map[string]string
}

// Empty reports whether none of the flags is set.
func (f *Flags) Empty() bool {
	return f.IssuerURL == "" && f.ClientID == "" && f.CAFile == "" && f.UsernamePrefix == "" && f.GroupsClaim == "" && f.GroupsPrefix == "" && len(f.RequiredClaims) == 0
}

// Load compiles the configuration that the flags stand for.
func (f *Flags) Load(own []string, c clock.PassiveClock) (*Config, error) {
	if f.IssuerURL == "" || f.ClientID == "" {
		return nil, errors.New("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set")
	}
	for _, algorithm := range f.SigningAlgs {
		if !slices.Contains(algorithms, algorithm) {
			return nil, fmt.Errorf("--oidc-signing-algs: %q is none of %q", algorithm, algorithms)
		}
	}
	claim := cmp.Or(f.UsernameClaim, "sub")
	prefix := f.UsernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && claim != "email":
		// Names are only unique within the issuer.
		prefix = f.IssuerURL + "#"
	}
	j := apiserverv1.JWTAuthenticator{
		Issuer:        apiserverv1.Issuer{URL: f.IssuerURL, Audiences: []string{f.ClientID}},
		ClaimMappings: apiserverv1.ClaimMappings{Username: apiserverv1.PrefixedClaimOrExpression{Claim: claim, Prefix: &prefix}},
	}
	if f.GroupsClaim != "" {
		j.ClaimMappings.Groups = apiserverv1.PrefixedClaimOrExpression{Claim: f.GroupsClaim, Prefix: &f.GroupsPrefix}
	}
	for _, name := range slices.Sorted(maps.Keys(f.RequiredClaims)) {
		j.ClaimValidationRules = append(j.ClaimValidationRules, apiserverv1.ClaimValidationRule{Claim: name, RequiredValue: f.RequiredClaims[name]})
	}
	if f.CAFile != "" {
		pem, err := os.ReadFile(f.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--oidc-ca-file: %w", err)
		}
		j.Issuer.CertificateAuthority = string(pem)
	}
	config, err := compile(&apiserverv1.AuthenticationConfiguration{JWT: []apiserverv1.JWTAuthenticator{j}}, own, c)
	if err != nil {
		return nil, fmt.Errorf("the --oidc flags: %w", err)
	}
	config.issuers[0].algorithms = f.SigningAlgs
	if len(f.SigningAlgs) == 0 {
		config.issuers[0].algorithms = algorithms[:1]
	}
	return config, nil
}
