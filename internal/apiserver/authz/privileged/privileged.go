// Package privileged is the authorizer that lets the members of system:masters
// do everything, whatever the state of the roles is.
package privileged

import (
	"context"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// Authorizer allows all to the members of system:masters.
type Authorizer struct{}

// Authorize implements authz.Authorizer.
func (Authorizer) Authorize(_ context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	if a.User != nil && a.User.InGroup(identity.GroupMasters) {
		return authz.Allow, "", nil
	}
	return authz.NoOpinion, "", nil
}
