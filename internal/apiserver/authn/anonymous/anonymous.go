// Package anonymous gives requests without credentials an identity. It stands
// last in a union.
package anonymous

import (
	"net/http"

	"skiff/internal/identity"
)

// Authenticator implements authn.Authenticator.
type Authenticator struct{}

// Authenticate implements authn.Authenticator.
func (Authenticator) Authenticate(*http.Request) (*identity.User, error) {
	return &identity.User{Name: identity.UserAnonymous, Groups: []string{identity.GroupUnauthenticated}}, nil
}
