// Package authentication declares the resources of the API group
// authentication.k8s.io: reviews, which are answered and never stored.
package authentication

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"

	"skiff/internal/apis"
	"skiff/internal/identity"
)

// TokenReviewer finds who a bearer token belongs to.
type TokenReviewer interface {
	// ReviewToken returns the token's user and those of the wanted audiences
	// that the token is valid for; no wanted audiences mean the API server's
	// own. A nil user without an error means that nobody knows the token; an
	// error says what is wrong with it.
	ReviewToken(ctx context.Context, token string, audiences []string) (*identity.User, []string, error)
}

// Resources returns fresh declarations of the group's resources. Without
// tokens, every TokenReview is refused with an internal error.
func Resources(tokens TokenReviewer) []*apis.Resource {
	return []*apis.Resource{
		selfSubjectReview(),
		tokenReview(tokens),
	}
}

// userInfo returns u in the form that reviews speak of users.
func userInfo(u *identity.User) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	if len(u.Extra) > 0 {
		info.Extra = make(map[string]authenticationv1.ExtraValue, len(u.Extra))
		for k, v := range u.Extra {
			info.Extra[k] = v
		}
	}
	return info
}
