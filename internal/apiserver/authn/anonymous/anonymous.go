// Package anonymous gives requests without credentials an identity.
package anonymous

import (
	"net/http"
	"slices"

	"skiff/internal/apiserver/authn"
	"skiff/internal/identity"
)

// Authenticator implements authn.Authenticator: it asks Next, and those who show
// no credentials at all are anonymous.
type Authenticator struct {
	Next authn.Authenticator
	// Paths, unless nil, are the only paths at which that is so.
	Paths []string
}

// Authenticate implements authn.Authenticator.
func (a *Authenticator) Authenticate(r *http.Request) (*identity.User, error) {
	user, err := a.Next.Authenticate(r)
	if user != nil || err != nil || (a.Paths != nil && !slices.Contains(a.Paths, r.URL.Path)) {
		return user, err
	}
	return &identity.User{Name: identity.UserAnonymous, Groups: []string{identity.GroupUnauthenticated}}, nil
}
