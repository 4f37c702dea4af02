// Package jwt authenticates by ID tokens of OpenID Connect issuers, as a
// structured AuthenticationConfiguration says: which issuers are trusted, and
// how the claims of their tokens become users.
package jwt

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"k8s.io/utils/clock"

	"skiff/internal/identity"
)

// retryAfter is the least time between two tries to learn an issuer's keys.
const retryAfter = 10 * time.Second

// algorithms are those that tokens may be signed with.
var algorithms = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}

// Authenticator implements bearer.Token for the issuers of a configuration,
// which may be replaced.
type Authenticator struct{ config atomic.Pointer[Config] }

// Set puts a configuration in force.
func (a *Authenticator) Set(c *Config) {
	if old := a.config.Swap(c); old != nil {
		old.close()
	}
}

// AuthenticateToken implements bearer.Token.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*identity.User, error) {
	c := a.config.Load()
	if c == nil || len(c.issuers) == 0 {
		return nil, nil
	}
	url := unverifiedIssuer(token)
	for _, i := range c.issuers {
		if i.url == url {
			return i.authenticate(ctx, token)
		}
	}
	return nil, nil
}

// unverifiedIssuer returns the issuer that a token says it is of, "" if it is
// no JWT.
func unverifiedIssuer(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.Issuer
}

// issuer is one trusted issuer. Its keys are learned when its first token
// comes, and again when a token is signed with one that is not known.
type issuer struct {
	url, discoveryURL string
	audiences         []string
	algorithms        []string
	rules             *mapping
	clock             clock.PassiveClock
	client            *http.Client
	ctx               context.Context

	mu struct {
		sync.Mutex
		verifier *oidc.IDTokenVerifier
		tried    time.Time
		err      error
	}
}

func newIssuer(url, discoveryURL string, ca *x509.CertPool, c clock.PassiveClock, ctx context.Context) *issuer {
	if discoveryURL == "" {
		discoveryURL = strings.TrimSuffix(url, "/") + "/.well-known/openid-configuration"
	}
	return &issuer{url: url, discoveryURL: discoveryURL, algorithms: algorithms, clock: c, ctx: ctx, client: newClient(ca)}
}

// verifier returns what checks signatures, after it has learned where the
// issuer's keys are.
func (i *issuer) verifier(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.mu.verifier != nil {
		return i.mu.verifier, nil
	}
	if i.mu.err != nil && i.clock.Since(i.mu.tried) < retryAfter {
		return nil, i.mu.err
	}
	i.mu.tried = i.clock.Now()
	keys, err := i.discover(ctx)
	if i.mu.err = err; err != nil {
		return nil, err
	}
	i.mu.verifier = oidc.NewVerifier(i.url, keys, &oidc.Config{
		// Audiences are checked by the configuration's own rule.
		SkipClientIDCheck: true, Now: i.clock.Now,
		SupportedSigningAlgs: i.algorithms,
	})
	return i.mu.verifier, nil
}

func (i *issuer) discover(ctx context.Context) (oidc.KeySet, error) {
	fail := func(err error) (oidc.KeySet, error) {
		return nil, fmt.Errorf("learning the keys of the issuer %s from %s: %w", i.url, i.discoveryURL, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, i.discoveryURL, nil)
	if err != nil {
		return fail(err)
	}
	response, err := i.client.Do(request)
	if err != nil {
		return fail(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fail(errors.New(response.Status))
	}
	var document struct {
		Issuer  string `json:"issuer"`
		KeysURL string `json:"jwks_uri"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, 1<<20)).Decode(&document); err != nil {
		return fail(err)
	}
	if document.Issuer != i.url {
		return fail(fmt.Errorf("the document is of issuer %q", document.Issuer))
	}
	// The key set fetches keys for as long as the configuration is in force.
	return oidc.NewRemoteKeySet(oidc.ClientContext(i.ctx, i.client), document.KeysURL), nil
}

func (i *issuer) authenticate(ctx context.Context, token string) (*identity.User, error) {
	verifier, err := i.verifier(ctx)
	if err != nil {
		return nil, err
	}
	verified, err := verifier.Verify(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("oidc: verify token: %w", err)
	}
	if !slices.ContainsFunc(verified.Audience, func(a string) bool { return slices.Contains(i.audiences, a) }) {
		return nil, fmt.Errorf("oidc: expected audience in %q got %q", i.audiences, verified.Audience)
	}
	var claims map[string]any
	if err := verified.Claims(&claims); err != nil {
		return nil, fmt.Errorf("oidc: parse claims: %w", err)
	}
	user, err := i.rules.user(ctx, claims)
	if err != nil {
		return nil, fmt.Errorf("oidc: %w", err)
	}
	if !user.InGroup(identity.GroupAuthenticated) {
		user.Groups = append(user.Groups, identity.GroupAuthenticated)
	}
	return user, nil
}
