package authorization

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

func selfSubjectAccessReview(authorizer authz.Authorizer) *apis.Resource {
	return apis.Of[*authorizationv1.SelfSubjectAccessReview]{
		Names: apis.Names{
			Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews", Singular: "selfsubjectaccessreview", Kind: "SelfSubjectAccessReview",
		},
		Version: "v1",
		New:     func() *authorizationv1.SelfSubjectAccessReview { return &authorizationv1.SelfSubjectAccessReview{} },
		Virtual: &apis.Virtual{
			Create: func(ctx context.Context, _ apis.Storage, _ string, obj apis.Object, _ bool) (runtime.Object, error) {
				return reviewSelf(ctx, authorizer, obj.(*authorizationv1.SelfSubjectAccessReview))
			},
		},
	}.Resource()
}

func reviewSelf(ctx context.Context, authorizer authz.Authorizer, in *authorizationv1.SelfSubjectAccessReview) (runtime.Object, error) {
	errs := append(validateQuestion(in.Spec.ResourceAttributes, in.Spec.NonResourceAttributes), validateMeta(in.ObjectMeta, false)...)
	if len(errs) > 0 {
		return nil, invalid(errs)
	}
	user := identity.FromContext(ctx)
	if user == nil {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	status, err := ask(ctx, authorizer, question{user, in.Spec.ResourceAttributes, in.Spec.NonResourceAttributes})
	if err != nil {
		return nil, err
	}
	out := in.DeepCopy()
	out.Status = status
	return out, nil
}
