package authz

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"skiff/internal/identity"
)

// Rules are what a user may do in a namespace.
type Rules struct {
	Resources    []authorizationv1.ResourceRule
	NonResources []authorizationv1.NonResourceRule
	// Incomplete tells that there may be more.
	Incomplete bool
}

// RuleResolver is an authorizer that can enumerate what it allows. The error
// says what could not be found out, beside the rules that were.
type RuleResolver interface {
	RulesFor(ctx context.Context, u *identity.User, namespace string) (Rules, error)
}

// RulesFor implements RuleResolver: all that its authorizers can tell.
func (u Union) RulesFor(ctx context.Context, user *identity.User, namespace string) (all Rules, err error) {
	var errs []error
	for _, z := range u {
		resolver, ok := z.(RuleResolver)
		if !ok {
			continue
		}
		rules, err := resolver.RulesFor(ctx, user, namespace)
		all.Resources = append(all.Resources, rules.Resources...)
		all.NonResources = append(all.NonResources, rules.NonResources...)
		all.Incomplete = all.Incomplete || rules.Incomplete
		if err != nil {
			errs = append(errs, err)
		}
	}
	return all, utilerrors.NewAggregate(errs)
}
