package authorization

import (
	"context"
	"errors"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

func selfSubjectRulesReview(rules authz.RuleResolver) *apis.Resource {
	return apis.Of[*authorizationv1.SelfSubjectRulesReview]{
		Names: apis.Names{
			Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews", Singular: "selfsubjectrulesreview", Kind: "SelfSubjectRulesReview",
		},
		Version: "v1",
		New:     func() *authorizationv1.SelfSubjectRulesReview { return &authorizationv1.SelfSubjectRulesReview{} },
		Virtual: &apis.Virtual{
			Create: func(ctx context.Context, _ apis.Storage, _ string, obj apis.Object, _ bool) (runtime.Object, error) {
				return reviewSelfRules(ctx, rules, obj.(*authorizationv1.SelfSubjectRulesReview))
			},
		},
	}.Resource()
}

func reviewSelfRules(ctx context.Context, rules authz.RuleResolver, in *authorizationv1.SelfSubjectRulesReview) (runtime.Object, error) {
	if rules == nil {
		return nil, apierrors.NewInternalError(errors.New("this server's authorizer cannot enumerate rules"))
	}
	user := identity.FromContext(ctx)
	if user == nil {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	if in.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	found, err := rules.RulesFor(ctx, user, in.Spec.Namespace)
	// Both lists are required fields of the type: empty, never null.
	out := &authorizationv1.SelfSubjectRulesReview{Status: authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    append([]authorizationv1.ResourceRule{}, found.Resources...),
		NonResourceRules: append([]authorizationv1.NonResourceRule{}, found.NonResources...),
		Incomplete:       found.Incomplete,
	}}
	if err != nil {
		out.Status.EvaluationError = err.Error()
	}
	return out, nil
}
