// Package identity says who makes a request. It is the one vocabulary that
// authentication, authorization, admission, audit and the in-process client
// share; it knows nothing about how an identity was proven.
package identity

import "context"

// Groups and users that upstream's authentication documentation reserves.
const (
	GroupMasters         = "system:masters"
	GroupAuthenticated   = "system:authenticated"
	GroupUnauthenticated = "system:unauthenticated"
	GroupNodes           = "system:nodes"
	GroupBootstrappers   = "system:bootstrappers"
	GroupServiceAccounts = "system:serviceaccounts"
	UserAnonymous        = "system:anonymous"

	// ServiceAccountPrefix starts the user name of every service account:
	// system:serviceaccount:<namespace>:<name>.
	ServiceAccountPrefix = "system:serviceaccount:"
	// NodePrefix starts the user name of every node: system:node:<name>.
	NodePrefix = "system:node:"
)

// User is an authenticated (or anonymous) requester. A User is immutable once
// it is in a context.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// InGroup reports whether the user is a member of group.
func (u *User) InGroup(group string) bool {
	for _, g := range u.Groups {
		if g == group {
			return true
		}
	}
	return false
}

// Component returns the identity of one of the control plane's own components,
// for example "system:kube-scheduler".
func Component(name string, groups ...string) *User {
	return &User{Name: name, Groups: append(groups, GroupAuthenticated)}
}

// Loopback is the identity of the API server's calls to itself.
func Loopback() *User {
	return Component("system:apiserver", GroupMasters)
}

type contextKey struct{}

// NewContext returns ctx carrying u.
func NewContext(ctx context.Context, u *User) context.Context {
	return context.WithValue(ctx, contextKey{}, u)
}

// FromContext returns the requester in ctx, or nil where there is none.
func FromContext(ctx context.Context) *User {
	u, _ := ctx.Value(contextKey{}).(*User)
	return u
}
