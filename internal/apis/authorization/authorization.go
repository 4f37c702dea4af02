// Package authorization declares the resources of the API group
// authorization.k8s.io: reviews, which are answered and never stored.
package authorization

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"

	"skiff/internal/apis"
	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// RuleResolver enumerates what a user may do in one namespace.
type RuleResolver interface {
	// RulesFor returns the rules of user in namespace. Incomplete tells that
	// there may be more; err says why, beside the rules that were found.
	RulesFor(ctx context.Context, user *identity.User, namespace string) (
		resources []authorizationv1.ResourceRule, nonResources []authorizationv1.NonResourceRule, incomplete bool, err error)
}

// Resources returns fresh declarations of the group's resources. Without an
// authorizer or a resolver, the reviews that need it are refused with an
// internal error.
func Resources(authorizer authz.Authorizer, rules RuleResolver) []*apis.Resource {
	return []*apis.Resource{
		localSubjectAccessReview(authorizer),
		selfSubjectAccessReview(authorizer),
		selfSubjectRulesReview(rules),
		subjectAccessReview(authorizer),
	}
}
