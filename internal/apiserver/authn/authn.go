// Package authn establishes who makes an HTTP request. The authenticators live
// in the folders below (x509, token).
package authn

import (
	"net/http"

	"skiff/internal/identity"
)

// Authenticator proves the identity behind a request. It returns (nil, nil)
// when the request carries no credentials of its kind, and an error when it
// carries some that are not valid.
type Authenticator interface {
	Authenticate(r *http.Request) (*identity.User, error)
}

// Union asks each authenticator in turn; the first identity wins. When none
// finds one, the first error is returned.
type Union []Authenticator

// Authenticate implements Authenticator.
func (u Union) Authenticate(r *http.Request) (*identity.User, error) {
	var firstErr error
	for _, a := range u {
		id, err := a.Authenticate(r)
		if id != nil {
			return id, nil
		}
		if err != nil && firstErr == nil {
			firstErr = err
		}
	}
	return nil, firstErr
}
