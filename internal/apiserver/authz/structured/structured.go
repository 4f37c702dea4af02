// Package structured reads an AuthorizationConfiguration: which authorizers
// there are, in which order they are asked, and which webhooks are among them.
package structured

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	celgo "github.com/google/cel-go/cel"
	authorizationv1 "k8s.io/api/authorization/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/authz/webhook"
	"skiff/internal/apiserver/cel"
	"skiff/internal/identity"
)

// Authorizer is an authz.Authorizer that may be replaced while it is used.
type Authorizer struct{ current atomic.Pointer[authz.Union] }

// Set puts a list of authorizers in force.
func (z *Authorizer) Set(u authz.Union) { z.current.Store(&u) }

// Authorize implements authz.Authorizer.
func (z *Authorizer) Authorize(ctx context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	return z.current.Load().Authorize(ctx, a)
}

// RulesFor implements authz.RuleResolver.
func (z *Authorizer) RulesFor(ctx context.Context, u *identity.User, namespace string) (authz.Rules, error) {
	return z.current.Load().RulesFor(ctx, u, namespace)
}

// always is an authorizer with one answer.
type always authz.Decision

// Authorize implements authz.Authorizer.
func (d always) Authorize(context.Context, *authz.Attributes) (authz.Decision, string, error) {
	if authz.Decision(d) == authz.Allow {
		return authz.Allow, "", nil
	}
	return authz.NoOpinion, "Everything is forbidden.", nil
}

// RulesFor implements authz.RuleResolver.
func (d always) RulesFor(context.Context, *identity.User, string) (authz.Rules, error) {
	if authz.Decision(d) != authz.Allow {
		return authz.Rules{}, nil
	}
	all := []string{"*"}
	return authz.Rules{
		Resources:    []authorizationv1.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}},
		NonResources: []authorizationv1.NonResourceRule{{Verbs: all, NonResourceURLs: all}},
	}, nil
}

// Load reads an AuthorizationConfiguration file. known are the authorizers that
// the server has, by type (Node, RBAC).
func Load(file string, known map[string]authz.Authorizer) (authz.Union, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("authorization configuration: %w", err)
	}
	z, err := Parse(data, known)
	if err != nil {
		return nil, fmt.Errorf("authorization configuration %s: %w", file, err)
	}
	return z, nil
}

// Parse reads an AuthorizationConfiguration.
func Parse(data []byte, known map[string]authz.Authorizer) (authz.Union, error) {
	var in apiserverv1.AuthorizationConfiguration
	if err := yaml.UnmarshalStrict(data, &in); err != nil {
		return nil, err
	}
	versions := []string{apiserverv1.GroupName + "/v1", apiserverv1.GroupName + "/v1beta1"}
	if !slices.Contains(versions, in.APIVersion) || in.Kind != "AuthorizationConfiguration" {
		return nil, fmt.Errorf("it is a %q %q, it must be of apiVersion %s and kind AuthorizationConfiguration", in.APIVersion, in.Kind, versions[0])
	}
	return read(in.Authorizers, known)
}

// FromModes makes the list that --authorization-mode names. hook is the webhook
// of the mode Webhook.
func FromModes(modes []string, hook *apiserverv1.WebhookConfiguration, known map[string]authz.Authorizer) (authz.Union, error) {
	var list []apiserverv1.AuthorizerConfiguration
	for _, mode := range modes {
		c := apiserverv1.AuthorizerConfiguration{Type: mode, Name: "default"}
		if mode == string(apiserverv1.TypeWebhook) {
			c.Webhook = hook
		}
		list = append(list, c)
	}
	return read(list, known)
}

func read(list []apiserverv1.AuthorizerConfiguration, known map[string]authz.Authorizer) (out authz.Union, err error) {
	r := &reader{known: map[string]authz.Authorizer{"AlwaysAllow": always(authz.Allow), "AlwaysDeny": always(authz.NoOpinion)}}
	for name, z := range known {
		r.known[name] = z
	}
	root := field.NewPath("authorizers")
	if len(list) == 0 {
		r.errs = append(r.errs, field.Required(root, "at least one authorization mode must be defined"))
	}
	seen := map[string]bool{}
	for i := range list {
		c, path := &list[i], root.Index(i)
		for _, key := range []string{"type " + c.Type, "name " + c.Name} {
			repeats := key == "type "+string(apiserverv1.TypeWebhook) || key == "name default"
			if seen[key] && !repeats {
				r.errs = append(r.errs, field.Duplicate(path, key))
			}
			seen[key] = true
		}
		if z := r.authorizer(c, path); z != nil {
			out = append(out, z)
		}
	}
	if len(r.errs) > 0 {
		return nil, r.errs.ToAggregate()
	}
	return out, nil
}

type reader struct {
	known map[string]authz.Authorizer
	env   *cel.Environment
	errs  field.ErrorList
}

func (r *reader) authorizer(c *apiserverv1.AuthorizerConfiguration, path *field.Path) authz.Authorizer {
	if c.Name == "" {
		r.errs = append(r.errs, field.Required(path.Child("name"), ""))
	} else if problems := utilvalidation.IsDNS1123Subdomain(c.Name); len(problems) > 0 {
		r.errs = append(r.errs, field.Invalid(path.Child("name"), c.Name, "authorizer name is invalid: "+problems[0]))
	}
	if c.Type == string(apiserverv1.TypeWebhook) {
		if c.Webhook == nil {
			r.errs = append(r.errs, field.Required(path.Child("webhook"), "required when type=Webhook"))
			return nil
		}
		return r.webhook(c, path.Child("webhook"))
	}
	if c.Webhook != nil {
		r.errs = append(r.errs, field.Invalid(path.Child("webhook"), "non-null", "may only be specified when type=Webhook"))
	}
	z := r.known[c.Type]
	switch {
	case c.Type == "":
		r.errs = append(r.errs, field.Required(path.Child("type"), ""))
	case z == nil:
		supported := []string{string(apiserverv1.TypeWebhook)}
		for name := range r.known {
			supported = append(supported, name)
		}
		slices.Sort(supported)
		r.errs = append(r.errs, field.NotSupported(path.Child("type"), c.Type, supported))
	}
	return z
}

func (r *reader) webhook(c *apiserverv1.AuthorizerConfiguration, path *field.Path) authz.Authorizer {
	before := len(r.errs)
	w := c.Webhook
	o := webhook.Options{Name: c.Name, Version: w.SubjectAccessReviewVersion, Timeout: w.Timeout.Duration, Deny: w.FailurePolicy == "Deny"}
	ttl := func(value time.Duration, fallback time.Duration, keep *bool, name string) time.Duration {
		switch {
		case value < 0:
			r.errs = append(r.errs, field.Invalid(path.Child(name), value.String(), "must be > 0s"))
		case keep != nil && !*keep:
			return 0
		case value == 0:
			return fallback
		}
		return value
	}
	o.Authorized = ttl(w.AuthorizedTTL.Duration, 5*time.Minute, w.CacheAuthorizedRequests, "authorizedTTL")
	o.Unauthorized = ttl(w.UnauthorizedTTL.Duration, 30*time.Second, w.CacheUnauthorizedRequests, "unauthorizedTTL")
	switch {
	case o.Timeout == 0:
		r.errs = append(r.errs, field.Required(path.Child("timeout"), ""))
	case o.Timeout < 0 || o.Timeout > 30*time.Second:
		r.errs = append(r.errs, field.Invalid(path.Child("timeout"), o.Timeout.String(), "must be > 0s and <= 30s"))
	}
	r.oneOf(w.SubjectAccessReviewVersion, path.Child("subjectAccessReviewVersion"), true, "v1", "v1beta1")
	r.oneOf(w.MatchConditionSubjectAccessReviewVersion, path.Child("matchConditionSubjectAccessReviewVersion"), len(w.MatchConditions) > 0, "v1")
	r.oneOf(w.FailurePolicy, path.Child("failurePolicy"), true, "NoOpinion", "Deny")
	r.connection(&w.ConnectionInfo, path.Child("connectionInfo"), &o)
	r.conditions(w.MatchConditions, path.Child("matchConditions"), &o)
	if len(r.errs) > before {
		return nil
	}
	z, err := webhook.New(o)
	if err != nil {
		r.errs = append(r.errs, field.Invalid(path.Child("connectionInfo"), o.Kubeconfig, err.Error()))
		return nil
	}
	return z
}

func (r *reader) oneOf(value string, path *field.Path, required bool, supported ...string) {
	switch {
	case value == "" && required:
		r.errs = append(r.errs, field.Required(path, fmt.Sprintf("supported values: %q", supported)))
	case value != "" && !slices.Contains(supported, value):
		r.errs = append(r.errs, field.NotSupported(path, value, supported))
	}
}

func (r *reader) connection(c *apiserverv1.WebhookConnectionInfo, path *field.Path, o *webhook.Options) {
	at := path.Child("kubeConfigFile")
	switch {
	case c.Type == "":
		r.errs = append(r.errs, field.Required(path.Child("type"), ""))
	case c.Type != apiserverv1.AuthorizationWebhookConnectionInfoTypeKubeConfigFile:
		r.errs = append(r.errs, field.NotSupported(path.Child("type"), c.Type, []string{apiserverv1.AuthorizationWebhookConnectionInfoTypeKubeConfigFile}))
	case c.KubeConfigFile == nil || *c.KubeConfigFile == "":
		r.errs = append(r.errs, field.Required(at, ""))
	case !filepath.IsAbs(*c.KubeConfigFile):
		r.errs = append(r.errs, field.Invalid(at, *c.KubeConfigFile, "must be an absolute path"))
	default:
		o.Kubeconfig = *c.KubeConfigFile
		if _, err := os.Stat(o.Kubeconfig); err != nil {
			r.errs = append(r.errs, field.Invalid(at, o.Kubeconfig, "error loading file: "+errors.Unwrap(err).Error()))
		}
	}
}

func (r *reader) conditions(list []apiserverv1.WebhookMatchCondition, path *field.Path, o *webhook.Options) {
	const most = 64
	if len(list) > most {
		r.errs = append(r.errs, field.TooMany(path, len(list), most))
		return
	}
	for i, c := range list {
		at := path.Index(i).Child("expression")
		if c.Expression == "" {
			r.errs = append(r.errs, field.Required(at, ""))
			continue
		}
		if r.env == nil {
			r.env = cel.Base().Extend(nil, celgo.Variable("request", celgo.MapType(celgo.StringType, celgo.DynType)))
		}
		p, err := r.env.Compile(c.Expression, true, celgo.BoolType)
		if err != nil {
			r.errs = append(r.errs, field.Invalid(at, c.Expression, err.Error()))
			continue
		}
		o.Conditions = append(o.Conditions, p)
	}
}
