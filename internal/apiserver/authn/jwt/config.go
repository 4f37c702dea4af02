package jwt

import (
	"context"
	"crypto/tls"
	"crypto/x509"

	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	celgo "github.com/google/cel-go/cel"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"

	"skiff/internal/apiserver/cel"
)

// Config is a compiled AuthenticationConfiguration.
type Config struct {
	issuers []*issuer
	// Anonymous says who is let in without credentials; nil leaves that to the
	// server.
	Anonymous *apiserverv1.AnonymousAuthConfig

	cancel context.CancelFunc
}

func (c *Config) close() {
	c.cancel()
	for _, i := range c.issuers {
		i.client.CloseIdleConnections()
	}
}

func newClient(ca *x509.CertPool) *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second,
		TLSClientConfig: &tls.Config{RootCAs: ca, MinVersion: tls.VersionTLS12},
	}}
}

// Load reads an AuthenticationConfiguration file. The issuers own are those of
// service accounts' tokens, which no other may have.
func Load(file string, own []string, c clock.PassiveClock) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("authentication configuration: %w", err)
	}
	config, err := Parse(data, own, c)
	if err != nil {
		return nil, fmt.Errorf("authentication configuration %s: %w", file, err)
	}
	return config, nil
}

// Parse reads an AuthenticationConfiguration.
func Parse(data []byte, own []string, c clock.PassiveClock) (*Config, error) {
	var in apiserverv1.AuthenticationConfiguration
	if err := yaml.UnmarshalStrict(data, &in); err != nil {
		return nil, err
	}
	// The two are of the same form.
	versions := []string{apiserverv1.GroupName + "/v1", apiserverv1.GroupName + "/v1beta1"}
	if !slices.Contains(versions, in.APIVersion) || in.Kind != "AuthenticationConfiguration" {
		return nil, fmt.Errorf("it is a %q %q, it must be of apiVersion %s and kind AuthenticationConfiguration", in.APIVersion, in.Kind, versions[0])
	}
	return compile(&in, own, c)
}

func compile(in *apiserverv1.AuthenticationConfiguration, own []string, c clock.PassiveClock) (*Config, error) {
	ctx, cancel := context.WithCancel(context.Background())
	out := &Config{Anonymous: in.Anonymous, cancel: cancel}
	r := &reader{clock: c, ctx: ctx}
	if a := in.Anonymous; a != nil && !a.Enabled && len(a.Conditions) > 0 {
		r.errs = append(r.errs, field.Invalid(field.NewPath("anonymous", "conditions"), a.Conditions, "enabled should be set to true when conditions are defined"))
	}
	seen := map[string]bool{}
	for i := range in.JWT {
		j, path := &in.JWT[i], field.NewPath("jwt").Index(i)
		if seen[j.Issuer.URL] {
			r.errs = append(r.errs, field.Duplicate(path.Child("issuer", "url"), j.Issuer.URL))
		}
		seen[j.Issuer.URL] = true
		out.issuers = append(out.issuers, r.issuer(j, own, path))
	}
	if len(r.errs) > 0 {
		cancel()
		return nil, r.errs.ToAggregate()
	}
	return out, nil
}

// reader compiles a configuration and collects what is wrong with it.
type reader struct {
	clock          clock.PassiveClock
	ctx            context.Context
	claims, person *cel.Environment
	errs           field.ErrorList
}

func (r *reader) issuer(j *apiserverv1.JWTAuthenticator, own []string, path *field.Path) *issuer {
	at := path.Child("issuer")
	r.url(j.Issuer.URL, at.Child("url"))
	if slices.Contains(own, j.Issuer.URL) {
		r.errs = append(r.errs, field.Invalid(at.Child("url"), j.Issuer.URL, fmt.Sprintf("URL must not overlap with disallowed issuers: %s", own)))
	}
	discovery := ""
	if j.Issuer.DiscoveryURL != nil {
		discovery = *j.Issuer.DiscoveryURL
		r.url(discovery, at.Child("discoveryURL"))
		if strings.TrimSuffix(discovery, "/") == strings.TrimSuffix(j.Issuer.URL, "/") {
			r.errs = append(r.errs, field.Invalid(at.Child("discoveryURL"), discovery, "discoveryURL must be different from URL"))
		}
	}
	r.audiences(&j.Issuer, at)
	var roots *x509.CertPool
	if pem := j.Issuer.CertificateAuthority; pem != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(pem)) {
			r.errs = append(r.errs, field.Invalid(at.Child("certificateAuthority"), "<omitted>", "data does not contain any valid RSA or ECDSA certificates"))
		}
	}
	if e := j.Issuer.EgressSelectorType; e != "" {
		r.errs = append(r.errs, field.Invalid(at.Child("egressSelectorType"), e, "egress selection is not supported: issuers are reached directly"))
	}
	i := newIssuer(j.Issuer.URL, discovery, roots, r.clock, r.ctx)
	i.audiences = j.Issuer.Audiences
	i.rules = r.mapping(j, path)
	return i
}

func (r *reader) url(raw string, path *field.Path) {
	bad := func(text string) { r.errs = append(r.errs, field.Invalid(path, raw, text)) }
	if raw == "" {
		r.errs = append(r.errs, field.Required(path, "URL is required"))
		return
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		bad(err.Error())
	case u.Scheme != "https":
		bad("URL scheme must be https")
	case u.User != nil:
		bad("URL must not contain a username or password")
	case u.RawQuery != "":
		bad("URL must not contain a query")
	case u.Fragment != "":
		bad("URL must not contain a fragment")
	}
}

func (r *reader) audiences(i *apiserverv1.Issuer, path *field.Path) {
	at := path.Child("audiences")
	if len(i.Audiences) == 0 {
		r.errs = append(r.errs, field.Required(at, "at least one jwt.issuer.audiences is required"))
	}
	for k, a := range i.Audiences {
		switch {
		case a == "":
			r.errs = append(r.errs, field.Required(at.Index(k), ""))
		case slices.Contains(i.Audiences[:k], a):
			r.errs = append(r.errs, field.Duplicate(at.Index(k), a))
		}
	}
	policy := i.AudienceMatchPolicy
	switch {
	case len(i.Audiences) > 1 && policy != apiserverv1.AudienceMatchPolicyMatchAny:
		r.errs = append(r.errs, field.Invalid(path.Child("audienceMatchPolicy"), policy, "audienceMatchPolicy must be MatchAny for multiple audiences"))
	case policy != "" && policy != apiserverv1.AudienceMatchPolicyMatchAny:
		r.errs = append(r.errs, field.Invalid(path.Child("audienceMatchPolicy"), policy, "audienceMatchPolicy must be empty or MatchAny for single audience"))
	}
}

func (r *reader) mapping(j *apiserverv1.JWTAuthenticator, path *field.Path) *mapping {
	m, at := &mapping{}, path.Child("claimMappings")
	m.username = r.source(&j.ClaimMappings.Username, at.Child("username"), celgo.StringType, celgo.DynType)
	if m.username == (source{}) {
		r.errs = append(r.errs, field.Required(at.Child("username"), "claim or expression is required"))
	}
	m.groups = r.source(&j.ClaimMappings.Groups, at.Child("groups"), celgo.StringType, celgo.ListType(celgo.StringType), celgo.ListType(celgo.DynType), celgo.DynType, celgo.NullType)
	uid := &apiserverv1.PrefixedClaimOrExpression{Claim: j.ClaimMappings.UID.Claim, Expression: j.ClaimMappings.UID.Expression}
	if uid.Claim != "" {
		uid.Prefix = new(string)
	}
	m.uid = r.source(uid, at.Child("uid"), celgo.StringType, celgo.DynType)
	for i := range j.ClaimMappings.Extra {
		r.extra(m, &j.ClaimMappings.Extra[i], at.Child("extra").Index(i))
	}
	for i := range j.ClaimValidationRules {
		r.claimRule(m, &j.ClaimValidationRules[i], path.Child("claimValidationRules").Index(i))
	}
	for i, u := range j.UserValidationRules {
		at := path.Child("userValidationRules").Index(i).Child("expression")
		if p := r.compile(u.Expression, at, r.users, celgo.BoolType); p != nil {
			m.userRules = append(m.userRules, condition{p, u.Message})
		}
	}
	if e := m.username.expression; e != nil && strings.Contains(e.Source, "claims.email") && !strings.Contains(e.Source, "claims.email_verified") && !mentions(j, "claims.email_verified") {
		r.errs = append(r.errs, field.Invalid(at.Child("username", "expression"), e.Source,
			"claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression"))
	}
	return m
}

// mentions reports whether one of the other expressions over claims has the
// text.
func mentions(j *apiserverv1.JWTAuthenticator, text string) bool {
	return slices.ContainsFunc(j.ClaimMappings.Extra, func(e apiserverv1.ExtraMapping) bool { return strings.Contains(e.ValueExpression, text) }) ||
		slices.ContainsFunc(j.ClaimValidationRules, func(c apiserverv1.ClaimValidationRule) bool { return strings.Contains(c.Expression, text) })
}

func (r *reader) source(s *apiserverv1.PrefixedClaimOrExpression, path *field.Path, returns ...*celgo.Type) (out source) {
	switch {
	case s.Claim != "" && s.Expression != "":
		r.errs = append(r.errs, field.Invalid(path, "", "claim and expression can't both be set"))
	case s.Expression != "":
		if s.Prefix != nil {
			r.errs = append(r.errs, field.Invalid(path.Child("prefix"), *s.Prefix, "may not be specified when expression is set"))
		}
		out.expression = r.compile(s.Expression, path.Child("expression"), r.tokens, returns...)
	case s.Claim != "":
		if s.Prefix == nil {
			r.errs = append(r.errs, field.Required(path.Child("prefix"), "prefix is required when claim is set. It can be set to an empty string to disable prefixing"))
			return source{claim: s.Claim}
		}
		out.claim, out.prefix = s.Claim, *s.Prefix
	}
	return out
}

func (r *reader) extra(m *mapping, e *apiserverv1.ExtraMapping, path *field.Path) {
	at := path.Child("key")
	if err := utilvalidation.IsDomainPrefixedPath(at, e.Key); len(err) > 0 {
		r.errs = append(r.errs, err...)
	}
	domain, _, _ := strings.Cut(e.Key, "/")
	switch {
	case e.Key != strings.ToLower(e.Key):
		r.errs = append(r.errs, field.Invalid(at, e.Key, "must be lowercase"))
	case within(domain, "k8s.io"), within(domain, "kubernetes.io"):
		r.errs = append(r.errs, field.Invalid(at, e.Key, "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"))
	case slices.ContainsFunc(m.extra, func(x extraValue) bool { return x.key == e.Key }):
		r.errs = append(r.errs, field.Duplicate(at, e.Key))
	}
	p := r.compile(e.ValueExpression, path.Child("valueExpression"), r.tokens,
		celgo.StringType, celgo.ListType(celgo.StringType), celgo.ListType(celgo.DynType), celgo.DynType, celgo.NullType)
	if p != nil {
		m.extra = append(m.extra, extraValue{e.Key, p})
	}
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

func (r *reader) claimRule(m *mapping, c *apiserverv1.ClaimValidationRule, path *field.Path) {
	switch {
	case c.Claim != "" && c.Expression != "":
		r.errs = append(r.errs, field.Invalid(path, c.Claim, "claim and expression can't both be set"))
	case c.Claim == "" && c.Expression == "":
		r.errs = append(r.errs, field.Required(path, "claim or expression is required"))
	case c.Claim != "":
		if c.Message != "" {
			r.errs = append(r.errs, field.Invalid(path.Child("message"), c.Message, "may not be specified when claim is set"))
		}
		m.claimRules = append(m.claimRules, claimRule{claim: c.Claim, value: c.RequiredValue})
	default:
		if c.RequiredValue != "" {
			r.errs = append(r.errs, field.Invalid(path.Child("requiredValue"), c.RequiredValue, "may not be specified when expression is set"))
		}
		if p := r.compile(c.Expression, path.Child("expression"), r.tokens, celgo.BoolType); p != nil {
			m.claimRules = append(m.claimRules, claimRule{condition: &condition{p, c.Message}})
		}
	}
}

// tokens and users are the environments of expressions over claims and over
// the user that they become.
func (r *reader) tokens() *cel.Environment {
	if r.claims == nil {
		r.claims = cel.Base().Extend(nil, celgo.Variable("claims", celgo.MapType(celgo.StringType, celgo.DynType)))
	}
	return r.claims
}

func (r *reader) users() *cel.Environment {
	if r.person == nil {
		r.person = cel.Base().Extend(nil, celgo.Variable("user", celgo.MapType(celgo.StringType, celgo.DynType)))
	}
	return r.person
}

func (r *reader) compile(expression string, path *field.Path, env func() *cel.Environment, returns ...*celgo.Type) *cel.Program {
	if strings.TrimSpace(expression) == "" {
		r.errs = append(r.errs, field.Required(path, "expression is required"))
		return nil
	}
	p, err := env().Compile(expression, true, returns...)
	if err != nil {
		r.errs = append(r.errs, field.Invalid(path, expression, err.Error()))
		return nil
	}
	return p
}
