package cluster

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"k8s.io/client-go/util/keyutil"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/authn"
	"skiff/internal/apiserver/authn/anonymous"
	"skiff/internal/apiserver/authn/bearer"
	"skiff/internal/apiserver/authn/bootstraptoken"
	"skiff/internal/apiserver/authn/jwt"
	"skiff/internal/apiserver/authn/requestheader"
	authnserviceaccount "skiff/internal/apiserver/authn/serviceaccount"
	"skiff/internal/apiserver/authn/tokenfile"
	"skiff/internal/apiserver/authn/webhook"
	authnx509 "skiff/internal/apiserver/authn/x509"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/cluster/bootstrap"
	"skiff/internal/identity"
	"skiff/internal/serviceaccount"
)

// AuthenticationConfig says who is believed to be who. The fields are named
// like kube-apiserver's flags.
type AuthenticationConfig struct {
	DisableAnonymous bool
	// AuthenticationConfigFile says which OpenID issuers are trusted, and where
	// requests may be anonymous. It is followed.
	AuthenticationConfigFile string
	// TokenAuthFile lists tokens and whose they are, as comma-separated values.
	TokenAuthFile string
	// OIDC trusts one OpenID issuer, without a file.
	OIDC jwt.Flags
	// TokenWebhookConfigFile is a kubeconfig of a webhook that knows tokens, by
	// reviews of the version TokenWebhookVersion (default v1beta1); its answers
	// hold for TokenWebhookCacheTTL (default two minutes).
	TokenWebhookConfigFile, TokenWebhookVersion string
	TokenWebhookCacheTTL                        time.Duration
	// RequestHeader are the headers by which authenticating proxies name users.
	// Such a proxy's certificate is of the cluster's own front-proxy authority
	// or of RequestHeaderClientCAFile, and has one of RequestHeaderAllowedNames
	// or is the aggregator's; with a file and without names any will do.
	RequestHeader             requestheader.Headers
	RequestHeaderClientCAFile string
	RequestHeaderAllowedNames []string

	// ServiceAccountIssuers are whose tokens are accepted (default
	// https://kubernetes.default.svc.<domain>); the first is the one that new
	// tokens name. APIAudiences are what tokens for this server say (default:
	// the issuers).
	ServiceAccountIssuers []string
	APIAudiences          []string
	// ServiceAccountSigningKeyFile is the private key that signs (default: one
	// that is made at the first start), ServiceAccountKeyFiles are keys by which
	// tokens are accepted beside that one, so that keys can be replaced.
	ServiceAccountSigningKeyFile string
	ServiceAccountKeyFiles       []string
	// ServiceAccountJWKSURI is where others find the public keys (default:
	// below this server's address), MaxTokenExpiration the longest life of a
	// token that somebody asks for (default: no limit).
	ServiceAccountJWKSURI string
	MaxTokenExpiration    time.Duration
}

// accountTokens are what makes and reads the tokens of service accounts.
type accountTokens struct {
	issuer    *serviceaccount.Issuer
	verifier  *serviceaccount.Verifier
	issuers   []string
	audiences []string
}

func (p *ControlPlane) accountTokens() (*accountTokens, error) {
	c := p.Config.API.AuthenticationConfig
	t := &accountTokens{issuers: c.ServiceAccountIssuers, audiences: c.APIAudiences}
	if len(t.issuers) == 0 {
		t.issuers = []string{issuerURL(p.Config.Node.ClusterDomain)}
	}
	if len(t.audiences) == 0 {
		t.audiences = t.issuers
	}
	var signing crypto.Signer = p.PKI.ServiceAccountKey
	if file := c.ServiceAccountSigningKeyFile; file != "" {
		key, err := keyutil.PrivateKeyFromFile(file)
		if err != nil {
			return nil, fmt.Errorf("service account signing key: %w", err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("service account signing key %s: a %T cannot sign", file, key)
		}
		signing = signer
	}
	keys := []crypto.PublicKey{signing.Public()}
	for _, file := range c.ServiceAccountKeyFiles {
		more, err := keyutil.PublicKeysFromFile(file)
		if err != nil {
			// A private key will do, too.
			private, privateErr := keyutil.PrivateKeyFromFile(file)
			signer, ok := private.(crypto.Signer)
			if privateErr != nil || !ok {
				return nil, fmt.Errorf("service account key: %w", err)
			}
			more = []any{signer.Public()}
		}
		for _, key := range more {
			if !slices.ContainsFunc(keys, func(k crypto.PublicKey) bool { return k.(interface{ Equal(crypto.PublicKey) bool }).Equal(key) }) {
				keys = append(keys, key)
			}
		}
	}
	var err error
	if t.issuer, err = serviceaccount.NewIssuer(t.issuers[0], signing, keys[1:]...); err != nil {
		return nil, err
	}
	t.issuer.MaxLifetime = c.MaxTokenExpiration
	t.verifier, err = serviceaccount.NewVerifier(t.issuers, keys...)
	return t, err
}

// discovery returns the documents by which others verify the tokens.
func (p *ControlPlane) discovery(t *accountTokens) (map[string]http.Handler, error) {
	keysAt := p.Config.API.ServiceAccountJWKSURI
	if keysAt == "" {
		keysAt = "https://" + p.Address.String() + serviceaccount.KeySetPath
	}
	configuration, keys, err := t.issuer.Discovery(keysAt)
	return map[string]http.Handler{serviceaccount.ConfigurationPath: configuration, serviceaccount.KeySetPath: keys}, err
}

// authenticator puts together all ways to prove who one is; review answers
// TokenReviews by those that know tokens.
func (p *ControlPlane) authenticator(t *accountTokens, review *tokenReviewer, clk clock.PassiveClock, cached client.Reader, live client.Client) (authn.Authenticator, error) {
	c := p.Config.API.AuthenticationConfig
	accounts, err := authnserviceaccount.New(authnserviceaccount.Config{
		Verifier: t.verifier, Audiences: t.audiences, Readers: []client.Reader{cached, live}, Secrets: live,
		Clock: clk, Log: p.log, Warn: verbs.Warn, Annotate: audit.Annotate, Registry: p.Metrics,
	})
	if err != nil {
		return nil, err
	}
	var tokens bearer.Authenticator
	if file := c.TokenAuthFile; file != "" {
		listed, err := tokenfile.Load(file, p.log)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, listed)
	}
	tokens = append(tokens, accounts, bootstraptoken.New(cached, clk))
	all := &anonymous.Authenticator{}
	all.Set(anonymous.Policy{Enabled: !c.DisableAnonymous})
	if file := c.AuthenticationConfigFile; file != "" {
		issuers := &jwt.Authenticator{}
		take := func() error {
			config, err := jwt.Load(file, t.issuers, clk)
			if err != nil {
				return err
			}
			if a := config.Anonymous; a != nil {
				if c.DisableAnonymous {
					return errors.New("the authentication configuration says who may be anonymous: --anonymous-auth cannot be set too")
				}
				policy := anonymous.Policy{Enabled: a.Enabled}
				for _, condition := range a.Conditions {
					policy.Paths = append(policy.Paths, condition.Path)
				}
				all.Set(policy)
			}
			issuers.Set(config)
			return nil
		}
		if err := errors.Join(take(), p.reload.follow("authentication", file, take)); err != nil {
			return nil, err
		}
		tokens = append(tokens, issuers)
	}
	if !c.OIDC.Empty() {
		if c.AuthenticationConfigFile != "" {
			return nil, errors.New("authentication-config file and oidc-* flags are mutually exclusive")
		}
		config, err := c.OIDC.Load(t.issuers, clk)
		if err != nil {
			return nil, err
		}
		issuers := &jwt.Authenticator{}
		issuers.Set(config)
		tokens = append(tokens, issuers)
	}
	if file := c.TokenWebhookConfigFile; file != "" {
		orDefault(&c.TokenWebhookCacheTTL, 2*time.Minute)
		hook, err := webhook.New(webhook.Options{Kubeconfig: file, Version: cmp.Or(c.TokenWebhookVersion, "v1beta1"), Audiences: t.audiences, TTL: c.TokenWebhookCacheTTL})
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, hook)
	}
	review.accounts, review.tokens = accounts, tokens
	proxies := x509.NewCertPool()
	proxies.AppendCertsFromPEM(p.proxies.CA)
	all.Next = authn.Union{
		&requestheader.Authenticator{Roots: proxies, AllowedNames: p.proxies.AllowedNames, Headers: c.RequestHeader.WithDefaults(), Clock: clk},
		&authnx509.Authenticator{Roots: p.PKI.CA.Pool(), Clock: clk},
		tokens,
	}
	return all, nil
}

// frontProxies returns the proxies that are believed who a user is. The
// aggregator is always one: it asks extension servers with a certificate of the
// cluster's own front-proxy authority.
func (p *ControlPlane) frontProxies() (f bootstrap.FrontProxies, err error) {
	const own = "front-proxy-client"
	c := p.Config.API.AuthenticationConfig
	headers := c.RequestHeader.WithDefaults()
	f = bootstrap.FrontProxies{
		CA: p.PKI.FrontProxyCA.PEM, AllowedNames: slices.Clone(c.RequestHeaderAllowedNames),
		Username: headers.Username, UID: headers.UID, Group: headers.Group, ExtraPrefix: headers.ExtraPrefix,
	}
	if file := c.RequestHeaderClientCAFile; file != "" {
		more, err := os.ReadFile(file)
		if err != nil {
			return f, fmt.Errorf("the authority of front proxies: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(more) {
			return f, fmt.Errorf("the authority of front proxies: %s holds no PEM certificate", file)
		}
		f.CA = slices.Concat(f.CA, more)
	}
	if len(f.AllowedNames) > 0 || c.RequestHeaderClientCAFile == "" {
		f.AllowedNames = append(f.AllowedNames, own)
	}
	return f, nil
}

// tokenReviewer answers TokenReviews by the authenticators of requests, which
// are made after the declarations.
type tokenReviewer struct {
	audiences []string
	accounts  *authnserviceaccount.Authenticator
	tokens    bearer.Authenticator
}

func (t *tokenReviewer) ReviewToken(ctx context.Context, token string, audiences []string) (*identity.User, []string, error) {
	asked := audiences
	if len(asked) == 0 {
		asked = t.audiences
	}
	if user, good, err := t.accounts.Review(ctx, token, asked); user != nil || err != nil {
		return user, good, err
	}
	// The others' tokens are all for this server.
	good := slices.DeleteFunc(slices.Clone(asked), func(a string) bool { return !slices.Contains(t.audiences, a) })
	if len(good) == 0 {
		return nil, nil, nil
	}
	user, err := t.tokens.AuthenticateToken(ctx, token)
	return user, good, err
}
