// Package webhook asks a webhook whether a requester may do what it asks
// (authorization.k8s.io SubjectAccessReview).
package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/cel-go/common/types"
	authorizationv1 "k8s.io/api/authorization/v1"
	authorizationv1beta1 "k8s.io/api/authorization/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/util/wait"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/cel"
	"skiff/internal/apiserver/webhook/kubeconfig"
	"skiff/internal/identity"
)

const (
	// remembered is how many answers are kept; questions longer than
	// longestQuestion bytes are asked each time.
	remembered      = 8192
	longestQuestion = 10000
)

// Options say which webhook is asked, and what its answers are worth.
type Options struct {
	// Version is that of the reviews which the webhook speaks: v1 or v1beta1.
	Name, Kubeconfig, Version string
	Timeout                   time.Duration
	// Answers hold for these times; 0 asks each time.
	Authorized, Unauthorized time.Duration
	// Deny refuses requests about which the webhook cannot be asked; otherwise
	// the next authorizer decides.
	Deny bool
	// Conditions must all hold for the webhook to be asked.
	Conditions []*cel.Program
}

// Authorizer implements authz.Authorizer.
type Authorizer struct {
	o       Options
	ask     func(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error)
	answers *utilcache.LRUExpireCache
}

// New returns an authorizer.
func New(o Options) (*Authorizer, error) {
	z := &Authorizer{o: o, answers: utilcache.NewLRUExpireCache(remembered)}
	var hook *kubeconfig.Webhook
	var err error
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5}
	switch o.Version {
	case "v1":
		hook, err = kubeconfig.New(o.Kubeconfig, authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme, o.Timeout, backoff)
		z.ask = func(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
			answer := &authorizationv1.SubjectAccessReview{}
			err := hook.Post(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, answer)
			return answer.Status, err
		}
	case "v1beta1":
		hook, err = kubeconfig.New(o.Kubeconfig, authorizationv1beta1.SchemeGroupVersion, authorizationv1beta1.AddToScheme, o.Timeout, backoff)
		z.ask = func(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
			answer := &authorizationv1beta1.SubjectAccessReview{}
			err := hook.Post(ctx, &authorizationv1beta1.SubjectAccessReview{Spec: beta(&spec)}, answer)
			return authorizationv1.SubjectAccessReviewStatus(answer.Status), err
		}
	default:
		err = fmt.Errorf("there is no version %q of subject access reviews, choose v1 or v1beta1", o.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("authorizer %s: %w", o.Name, err)
	}
	return z, nil
}

// beta is the question in the older version.
func beta(s *authorizationv1.SubjectAccessReviewSpec) authorizationv1beta1.SubjectAccessReviewSpec {
	out := authorizationv1beta1.SubjectAccessReviewSpec{User: s.User, UID: s.UID, Groups: s.Groups}
	for k, v := range s.Extra {
		if out.Extra == nil {
			out.Extra = map[string]authorizationv1beta1.ExtraValue{}
		}
		out.Extra[k] = authorizationv1beta1.ExtraValue(v)
	}
	if r := s.ResourceAttributes; r != nil {
		attributes := authorizationv1beta1.ResourceAttributes{
			Namespace: r.Namespace, Verb: r.Verb, Group: r.Group, Version: r.Version, Resource: r.Resource, Subresource: r.Subresource, Name: r.Name,
			FieldSelector: r.FieldSelector, LabelSelector: r.LabelSelector,
		}
		out.ResourceAttributes = &attributes
	}
	if n := s.NonResourceAttributes; n != nil {
		attributes := authorizationv1beta1.NonResourceAttributes(*n)
		out.NonResourceAttributes = &attributes
	}
	return out
}

// Authorize implements authz.Authorizer.
func (z *Authorizer) Authorize(ctx context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	spec := question(a)
	if len(z.o.Conditions) > 0 {
		matches, err := z.matches(ctx, &spec)
		if err != nil {
			return z.failed(err)
		}
		if !matches {
			return authz.NoOpinion, "", nil
		}
	}
	key, err := json.Marshal(&spec)
	if err != nil {
		return z.failed(err)
	}
	keep := len(key) <= longestQuestion
	if keep {
		if known, ok := z.answers.Get(string(key)); ok {
			return decision(known.(*authorizationv1.SubjectAccessReviewStatus))
		}
	}
	status, err := z.ask(ctx, spec)
	if err != nil {
		return z.failed(err)
	}
	ttl := z.o.Unauthorized
	if status.Allowed {
		ttl = z.o.Authorized
	}
	if keep && ttl > 0 {
		z.answers.Add(string(key), &status, ttl)
	}
	return decision(&status)
}

// RulesFor implements authz.RuleResolver.
func (z *Authorizer) RulesFor(context.Context, *identity.User, string) (authz.Rules, error) {
	return authz.Rules{Incomplete: true}, errors.New("webhook authorizer does not support user rule resolution")
}

func (z *Authorizer) failed(err error) (authz.Decision, string, error) {
	err = fmt.Errorf("authorizer %s: %w", z.o.Name, err)
	if z.o.Deny {
		return authz.Deny, "", err
	}
	return authz.NoOpinion, "", err
}

func decision(s *authorizationv1.SubjectAccessReviewStatus) (authz.Decision, string, error) {
	switch {
	case s.Denied && s.Allowed:
		return authz.Deny, s.Reason, errors.New("webhook subject access review returned both allow and deny response")
	case s.Denied:
		return authz.Deny, s.Reason, nil
	case s.Allowed:
		return authz.Allow, s.Reason, nil
	}
	var err error
	if s.EvaluationError != "" {
		err = errors.New(s.EvaluationError)
	}
	return authz.NoOpinion, s.Reason, err
}

// matches evaluates the conditions. One that is false decides, even if others
// cannot be evaluated.
func (z *Authorizer) matches(ctx context.Context, spec *authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	request, err := conditionVariable(spec)
	if err != nil {
		return false, err
	}
	vars, budget := map[string]any{"request": request}, cel.NewBudget(celconfig.RuntimeCELCostBudgetMatchConditions)
	var errs []error
	for _, c := range z.o.Conditions {
		value, err := c.Eval(ctx, vars, budget)
		switch {
		case err != nil:
			errs = append(errs, err)
		case value != types.True:
			return false, nil
		}
	}
	return len(errs) == 0, errors.Join(errs...)
}

// conditionVariable is what conditions see as request: the question with all of
// its fields, also those that are empty.
func conditionVariable(spec *authorizationv1.SubjectAccessReviewSpec) (map[string]any, error) {
	extra := map[string][]string{}
	for k, v := range spec.Extra {
		extra[k] = v
	}
	request := map[string]any{"user": spec.User, "groups": append([]string{}, spec.Groups...), "uid": spec.UID, "extra": extra}
	if n := spec.NonResourceAttributes; n != nil {
		request["nonResourceAttributes"] = map[string]any{"path": n.Path, "verb": n.Verb}
	}
	r := spec.ResourceAttributes
	if r == nil {
		return request, nil
	}
	attributes := map[string]any{
		"namespace": r.Namespace, "verb": r.Verb, "group": r.Group, "version": r.Version,
		"resource": r.Resource, "subresource": r.Subresource, "name": r.Name,
	}
	for name, selector := range map[string]any{"fieldSelector": r.FieldSelector, "labelSelector": r.LabelSelector} {
		data, err := json.Marshal(selector)
		if err != nil {
			return nil, err
		}
		var value map[string]any
		if err := json.Unmarshal(data, &value); err != nil {
			return nil, err
		}
		if value != nil {
			attributes[name] = value
		}
	}
	request["resourceAttributes"] = attributes
	return request, nil
}

// question is what the webhook is asked.
func question(a *authz.Attributes) authorizationv1.SubjectAccessReviewSpec {
	spec := authorizationv1.SubjectAccessReviewSpec{}
	if u := a.User; u != nil {
		spec.User, spec.UID, spec.Groups = u.Name, u.UID, u.Groups
		for k, v := range u.Extra {
			if spec.Extra == nil {
				spec.Extra = map[string]authorizationv1.ExtraValue{}
			}
			spec.Extra[k] = v
		}
	}
	if !a.IsResource() {
		spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: a.Path, Verb: a.Verb}
		return spec
	}
	spec.ResourceAttributes = &authorizationv1.ResourceAttributes{
		Namespace: a.Namespace, Verb: a.Verb, Group: a.Group, Version: a.Version, Resource: a.Resource, Subresource: a.Subresource, Name: a.Name,
		FieldSelector: fieldSelector(a.FieldSelector), LabelSelector: labelSelector(a.LabelSelector),
	}
	return spec
}

// fieldSelector and labelSelector leave out what reviews cannot say: the
// webhook is then asked for more than is wanted, which is on the safe side.
func fieldSelector(requirements fields.Requirements) *authorizationv1.FieldSelectorAttributes {
	var out []metav1.FieldSelectorRequirement
	for _, r := range requirements {
		op := metav1.FieldSelectorOpIn
		switch r.Operator {
		case selection.Equals, selection.DoubleEquals, selection.In:
		case selection.NotEquals, selection.NotIn:
			op = metav1.FieldSelectorOpNotIn
		default:
			continue
		}
		out = append(out, metav1.FieldSelectorRequirement{Key: r.Field, Operator: op, Values: []string{r.Value}})
	}
	if out == nil {
		return nil
	}
	return &authorizationv1.FieldSelectorAttributes{Requirements: out}
}

func labelSelector(requirements labels.Requirements) *authorizationv1.LabelSelectorAttributes {
	operators := map[selection.Operator]metav1.LabelSelectorOperator{
		selection.Equals: metav1.LabelSelectorOpIn, selection.DoubleEquals: metav1.LabelSelectorOpIn, selection.In: metav1.LabelSelectorOpIn,
		selection.NotEquals: metav1.LabelSelectorOpNotIn, selection.NotIn: metav1.LabelSelectorOpNotIn,
		selection.Exists: metav1.LabelSelectorOpExists, selection.DoesNotExist: metav1.LabelSelectorOpDoesNotExist,
	}
	var out []metav1.LabelSelectorRequirement
	for i := range requirements {
		r := &requirements[i]
		if op, ok := operators[r.Operator()]; ok {
			out = append(out, metav1.LabelSelectorRequirement{Key: r.Key(), Operator: op, Values: r.ValuesUnsorted()})
		}
	}
	if out == nil {
		return nil
	}
	return &authorizationv1.LabelSelectorAttributes{Requirements: out}
}
