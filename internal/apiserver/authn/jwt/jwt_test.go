package jwt

import (
	"strings"
	"testing"

	"k8s.io/utils/clock"
)

func TestConfigErrors(t *testing.T) {
	head := "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
	jwt := func(issuer, rest string) string {
		return head + "jwt:\n- issuer: {" + issuer + "}\n  claimMappings: {username: {claim: sub, prefix: ''}" + rest + "}\n"
	}
	const ok = "url: 'https://i.example.com', audiences: [a]"
	for text, want := range map[string]string{
		"kind: Pod": "kind AuthenticationConfiguration",
		jwt("url: 'http://i.example.com', audiences: [a]", ""):                                    "jwt[0].issuer.url: Invalid value: \"http://i.example.com\": URL scheme must be https",
		jwt("url: 'https://u:p@i.example.com', audiences: [a]", ""):                               "URL must not contain a username or password",
		jwt("url: 'https://own.example.com', audiences: [a]", ""):                                 "URL must not overlap with disallowed issuers",
		jwt("url: 'https://i.example.com'", ""):                                                   "jwt[0].issuer.audiences: Required value",
		jwt("url: 'https://i.example.com', audiences: [a, b]", ""):                                "audienceMatchPolicy must be MatchAny for multiple audiences",
		jwt(ok+", certificateAuthority: x", ""):                                                   "jwt[0].issuer.certificateAuthority: Invalid value: \"<omitted>\"",
		jwt(ok, ", groups: {claim: g}"):                                                           "jwt[0].claimMappings.groups.prefix: Required value: prefix is required when claim is set",
		jwt(ok, ", groups: {claim: g, expression: 'claims.g'}"):                                   "claim and expression can't both be set",
		jwt(ok, ", groups: {expression: '1'}"):                                                    "jwt[0].claimMappings.groups.expression: Invalid value: \"1\": must evaluate to one of",
		jwt(ok, ", uid: {expression: 'claims.'}"):                                                 "jwt[0].claimMappings.uid.expression: Invalid value: \"claims.\": compilation failed",
		jwt(ok, ", extra: [{key: a.kubernetes.io/x, valueExpression: claims.x}]"):                 "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use",
		jwt(ok, ", extra: [{key: example.com/X, valueExpression: claims.x}]"):                     "must be lowercase",
		strings.Replace(jwt(ok, ""), "{claim: sub, prefix: ''}", "{expression: claims.email}", 1): "claims.email_verified must be used",
		jwt(ok, "") + "  userValidationRules: [{expression: claims.x}]":                           "undeclared reference to 'claims'",
		jwt(ok, "") + "  claimValidationRules: [{claim: a, expression: 'true'}]":                  "claim and expression can't both be set",
		head + "anonymous: {enabled: false, conditions: [{path: /x}]}":                            "enabled should be set to true when conditions are defined",
		head + "unknown: 1": "unknown field",
	} {
		if _, err := Parse([]byte(text), []string{"https://own.example.com"}, clock.RealClock{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngives %v, want %s", text, err, want)
		}
	}
	if _, err := Parse([]byte(jwt(ok, "")), nil, clock.RealClock{}); err != nil {
		t.Error(err)
	}
}

func FuzzToken(f *testing.F) {
	f.Add("a.eyJpc3MiOiJodHRwczovL2kuZXhhbXBsZS5jb20ifQ.b")
	f.Add("...")
	a := &Authenticator{}
	c, err := Parse([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: 'https://i.example.com', audiences: [a]}\n  claimMappings: {username: {claim: sub, prefix: ''}}\n"), nil, clock.RealClock{})
	if err != nil {
		f.Fatal(err)
	}
	// No key of the issuer is known and none can be had.
	c.issuers[0].discoveryURL = "https://127.0.0.1:1/"
	a.Set(c)
	f.Fuzz(func(t *testing.T, token string) {
		if user, err := a.AuthenticateToken(t.Context(), token); user != nil {
			t.Errorf("%q is %+v, %v", token, user, err)
		}
	})
}
