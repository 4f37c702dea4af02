package authentication

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		Virtual: &apis.Virtual{
			Create: func(ctx context.Context, _ apis.Storage, _ string, _ apis.Object, _ bool) (runtime.Object, error) {
				return reviewSelf(ctx)
			},
		},
	}.Resource()
}

func reviewSelf(ctx context.Context) (runtime.Object, error) {
	user := identity.FromContext(ctx)
	if user == nil {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	return &authenticationv1.SelfSubjectReview{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now()},
		Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: user.Info()},
	}, nil
}
