// Package authentication declares the resources of the API group
// authentication.k8s.io: reviews, which are answered and never stored.
package authentication

import (
	"context"

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
