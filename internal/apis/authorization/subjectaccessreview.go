package authorization

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
	"skiff/internal/apiserver/authz"
)

func subjectAccessReview(authorizer authz.Authorizer) *apis.Resource {
	return apis.Of[*authorizationv1.SubjectAccessReview]{
		Names: apis.Names{
			Group: "authorization.k8s.io", Resource: "subjectaccessreviews", Singular: "subjectaccessreview", Kind: "SubjectAccessReview",
		},
		Version: "v1",
		New:     func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} },
		Virtual: &apis.Virtual{
			Create: func(ctx context.Context, _ apis.Storage, _ string, obj apis.Object, _ bool) (runtime.Object, error) {
				return reviewSubject(ctx, authorizer, obj.(*authorizationv1.SubjectAccessReview))
			},
		},
	}.Resource()
}

func reviewSubject(ctx context.Context, authorizer authz.Authorizer, in *authorizationv1.SubjectAccessReview) (runtime.Object, error) {
	errs := append(validateSubject(&in.Spec), validateMeta(in.ObjectMeta, false)...)
	if len(errs) > 0 {
		return nil, invalid(errs)
	}
	status, err := ask(ctx, authorizer, questionOf(&in.Spec))
	if err != nil {
		return nil, err
	}
	out := in.DeepCopy()
	out.Status = status
	return out, nil
}
