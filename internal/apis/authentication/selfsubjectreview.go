package authentication

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
	"skiff/internal/identity"
)

func selfSubjectReview() *apis.Resource {
	return apis.Of[*authenticationv1.SelfSubjectReview]{
		Names: apis.Names{
			Group: "authentication.k8s.io", Resource: "selfsubjectreviews", Singular: "selfsubjectreview", Kind: "SelfSubjectReview",
		},
		Version: "v1",
		New:     func() *authenticationv1.SelfSubjectReview { return &authenticationv1.SelfSubjectReview{} },
		Verbs:   []string{},
		Virtual: &apis.Virtual{
			Create: func(ctx context.Context, _ apis.Storage, _ string, obj apis.Object) (runtime.Object, error) {
				return reviewSelf(ctx, obj.(*authenticationv1.SelfSubjectReview))
			},
		},
	}.Resource()
}

func reviewSelf(ctx context.Context, in *authenticationv1.SelfSubjectReview) (runtime.Object, error) {
	user := identity.FromContext(ctx)
	if user == nil {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	out := in.DeepCopy()
	out.Status = authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(user)}
	return out, nil
}
