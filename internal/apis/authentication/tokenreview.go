package authentication

import (
	"context"
	"errors"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func tokenReview(tokens TokenReviewer) *apis.Resource {
	return apis.Of[*authenticationv1.TokenReview]{
		Names: apis.Names{
			Group: "authentication.k8s.io", Resource: "tokenreviews", Singular: "tokenreview", Kind: "TokenReview",
		},
		Version: "v1",
		New:     func() *authenticationv1.TokenReview { return &authenticationv1.TokenReview{} },
		Virtual: &apis.Virtual{
			Create: func(ctx context.Context, _ apis.Storage, _ string, obj apis.Object, _ bool) (runtime.Object, error) {
				return reviewToken(ctx, tokens, obj.(*authenticationv1.TokenReview))
			},
		},
	}.Resource()
}

func reviewToken(ctx context.Context, tokens TokenReviewer, in *authenticationv1.TokenReview) (runtime.Object, error) {
	if tokens == nil {
		return nil, apierrors.NewInternalError(errors.New("this server has no token authenticator: it cannot review tokens"))
	}
	if in.Namespace != "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("namespace is not allowed on this type: %v", in.Namespace))
	}
	if in.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	out := in.DeepCopy()
	user, audiences, err := tokens.ReviewToken(ctx, in.Spec.Token, in.Spec.Audiences)
	if err == nil && user == nil {
		err = errors.New("invalid bearer token")
	}
	if err != nil {
		out.Status.Error = err.Error()
	}
	out.Status.Authenticated = user != nil
	if user == nil {
		return out, nil
	}
	out.Status.User = user.Info()
	out.Status.Audiences = audiences
	return out, nil
}
