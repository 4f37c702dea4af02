// Package webhook asks mutating and validating admission webhooks about writes.
package webhook

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	celgo "github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/current"
	"skiff/internal/apiserver/admission/match"
	"skiff/internal/apiserver/admission/review"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/cel"
	"skiff/internal/apiserver/webhook"
	"skiff/internal/store/cache"
)

// Deps are what both kinds of plug-in need.
type Deps struct {
	// Configurations are the objects that register the webhooks.
	Configurations *cache.Collection
	Namespaces     match.Namespaces
	Authorizer     authz.Authorizer
	Expressions    *cel.Admission
	Client         *webhook.Client
	Metrics        *admission.Metrics
}

// hook is a registered webhook.
type hook struct {
	// id is the same as long as the webhook is registered.
	id            string
	configuration string
	// position is that among all webhooks.
	position  int
	spec      admissionregistrationv1.ValidatingWebhook
	again     bool
	target    webhook.Target
	selectors match.Selectors
	// conditions are compiled when the first write is meant for the webhook.
	conditions func() match.Conditions
}

// registry finds the webhooks that a write is meant for.
type registry = match.Index[*hook]

// registered is a configuration object, as the webhooks in it.
type registered struct {
	name     string
	webhooks []admissionregistrationv1.ValidatingWebhook
	// again are those that want to be asked a second time.
	again []bool
}

func (d *Deps) follow(read func(apis.Object) registered) *current.Value[*registry] {
	return current.New(func(_ *registry, objects [][]apis.Object) *registry {
		all := &registry{}
		for _, obj := range objects[0] {
			c := read(obj)
			for i := range c.webhooks {
				h := d.newHook(&c, i)
				h.position = all.Len()
				all.Add(h, match.Webhook(h.spec.Rules, h.spec.MatchPolicy))
			}
		}
		return all
	}, d.Configurations)
}

func (d *Deps) newHook(c *registered, i int) *hook {
	spec := c.webhooks[i]
	h := &hook{
		id: fmt.Sprintf("%s/%s/%d", c.name, spec.Name, i), configuration: c.name, spec: spec, again: c.again[i],
		selectors: match.NewSelectors(spec.NamespaceSelector, spec.ObjectSelector),
		target:    webhook.Target{CABundle: spec.ClientConfig.CABundle},
	}
	if s := spec.ClientConfig.Service; s != nil {
		h.target.Service = &webhook.Service{Namespace: s.Namespace, Name: s.Name}
		if s.Path != nil {
			h.target.Service.Path = *s.Path
		}
		if s.Port != nil {
			h.target.Service.Port = *s.Port
		}
	} else if spec.ClientConfig.URL != nil {
		h.target.URL = *spec.ClientConfig.URL
	}
	h.conditions = sync.OnceValue(func() match.Conditions {
		return match.Compile(spec.MatchConditions, func(source string, stored bool, returns ...*celgo.Type) (*cel.Program, *apiservercel.Error) {
			return d.Expressions.Environment(cel.Declares{Authorizer: true}).Compile(source, stored, returns...)
		})
	})
	return h
}

func (h *hook) ignoresFailure() bool {
	return h.spec.FailurePolicy != nil && *h.spec.FailurePolicy == admissionregistrationv1.Ignore
}

func (h *hook) timeout() time.Duration {
	if h.spec.TimeoutSeconds == nil {
		return 10 * time.Second
	}
	return time.Duration(*h.spec.TimeoutSeconds) * time.Second
}

// reviewVersion is the version of AdmissionReview that is spoken with the
// webhook: the first that both know.
func (h *hook) reviewVersion() (string, bool) {
	i := slices.IndexFunc(h.spec.AdmissionReviewVersions, func(v string) bool { return v == "v1" || v == "v1beta1" })
	if i < 0 {
		return "", false
	}
	return h.spec.AdmissionReviewVersions[i], true
}

// wants reports whether the webhook is to be called about a write that its
// rules select. kind is "admit" or "validating".
func (d *Deps) wants(ctx context.Context, h *hook, kind string, a *admission.Attributes, v *review.View) (bool, error) {
	if ok, err := h.selectors.Match(ctx, a, d.Namespaces); !ok || err != nil {
		return false, err
	}
	if len(h.spec.MatchConditions) == 0 {
		return true, nil
	}
	vars, err := v.Activation(ctx)
	if err != nil {
		return false, err
	}
	start := time.Now()
	ok, err := h.conditions().Match(ctx, &vars)
	d.Metrics.Conditions(h.spec.Name, "webhook", kind, a, start, ok, err)
	if err != nil && !h.ignoresFailure() {
		return false, a.Forbidden("%w", err)
	}
	return ok && err == nil, nil
}
