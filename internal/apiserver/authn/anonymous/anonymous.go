// Package anonymous gives requests without credentials an identity.
package anonymous

import (
	"net/http"
	"slices"
	"sync/atomic"

	"skiff/internal/apiserver/authn"
	"skiff/internal/identity"
)

// Authenticator implements authn.Authenticator: it asks Next, and those who show
// no credentials at all are anonymous where its policy says so.
type Authenticator struct {
	Next   authn.Authenticator
	policy atomic.Pointer[Policy]
}

// Policy says where requests may be anonymous.
type Policy struct {
	Enabled bool
	// Paths, unless there are none, are the only paths.
	Paths []string
}

// Set puts a policy in force; before, nobody is anonymous.
func (a *Authenticator) Set(p Policy) { a.policy.Store(&p) }

// Authenticate implements authn.Authenticator.
func (a *Authenticator) Authenticate(r *http.Request) (*identity.User, error) {
	user, err := a.Next.Authenticate(r)
	if user != nil || err != nil {
		return user, err
	}
	p := a.policy.Load()
	if p == nil || !p.Enabled || (len(p.Paths) > 0 && !slices.Contains(p.Paths, r.URL.Path)) {
		return nil, nil
	}
	return &identity.User{Name: identity.UserAnonymous, Groups: []string{identity.GroupUnauthenticated}}, nil
}
