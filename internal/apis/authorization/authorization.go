// Package authorization declares the resources of the API group
// authorization.k8s.io: reviews, which are answered and never stored.
package authorization

import (
	"skiff/internal/apis"
	"skiff/internal/apiserver/authz"
)

// Resources returns fresh declarations of the group's resources. Without an
// authorizer or a resolver, the reviews that need it are refused with an
// internal error.
func Resources(authorizer authz.Authorizer, rules authz.RuleResolver) []*apis.Resource {
	return []*apis.Resource{
		localSubjectAccessReview(authorizer),
		selfSubjectAccessReview(authorizer),
		selfSubjectRulesReview(rules),
		subjectAccessReview(authorizer),
	}
}
