package authentication

import (
	"context"
	"errors"
	"slices"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/internal/apis/checks/checkstest"
	"skiff/internal/identity"
)

type tokens map[string]*identity.User

func (k tokens) ReviewToken(_ context.Context, token string, audiences []string) (*identity.User, []string, error) {
	if token == "expired" {
		return nil, nil, errors.New("token has expired")
	}
	return k[token], audiences, nil
}

func TestTokenReview(t *testing.T) {
	known := tokens{"good": {Name: "ann", UID: "1", Groups: []string{"devs"}, Extra: map[string][]string{"k": {"v"}}}}
	create := checkstest.Find(t, Resources(known), "tokenreviews").Virtual.Create
	for token, want := range map[string]authenticationv1.TokenReviewStatus{
		"good":    {Authenticated: true, User: authenticationv1.UserInfo{Username: "ann"}},
		"unknown": {Error: "invalid bearer token"},
		"expired": {Error: "token has expired"},
	} {
		in := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{"api"}}}
		out, err := create(t.Context(), nil, "", in, false)
		if err != nil {
			t.Fatal(err)
		}
		got := out.(*authenticationv1.TokenReview).Status
		if got.Authenticated != want.Authenticated || got.User.Username != want.User.Username || got.Error != want.Error {
			t.Errorf("%s: got %+v, want %+v", token, got, want)
		}
		if got.Authenticated && (!slices.Equal(got.Audiences, []string{"api"}) || got.User.Extra["k"][0] != "v") {
			t.Errorf("%s: got %+v", token, got)
		}
	}
	if _, err := create(t.Context(), nil, "", &authenticationv1.TokenReview{}, false); !apierrors.IsBadRequest(err) {
		t.Errorf("a review of no token gave %v", err)
	}
	without := checkstest.Find(t, Resources(nil), "tokenreviews").Virtual.Create
	if _, err := without(t.Context(), nil, "", &authenticationv1.TokenReview{}, false); !apierrors.IsInternalError(err) {
		t.Errorf("a server without authenticator answered %v", err)
	}
}

func TestSelfSubjectReview(t *testing.T) {
	create := checkstest.Find(t, Resources(nil), "selfsubjectreviews").Virtual.Create
	ctx := identity.NewContext(t.Context(), &identity.User{Name: "ann"})
	out, err := create(ctx, nil, "", &authenticationv1.SelfSubjectReview{}, false)
	if err != nil || out.(*authenticationv1.SelfSubjectReview).Status.UserInfo.Username != "ann" {
		t.Errorf("got %+v, %v", out, err)
	}
	if _, err := create(t.Context(), nil, "", &authenticationv1.SelfSubjectReview{}, false); !apierrors.IsBadRequest(err) {
		t.Errorf("nobody got %v", err)
	}
}
