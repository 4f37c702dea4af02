package identity

import (
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// Info returns the user in the form in which the API speaks of users.
func (u *User) Info() authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	if len(u.Extra) > 0 {
		info.Extra = make(map[string]authenticationv1.ExtraValue, len(u.Extra))
		for k, v := range u.Extra {
			info.Extra[k] = v
		}
	}
	return info
}

// FromInfo returns the user that the API speaks of.
func FromInfo(info *authenticationv1.UserInfo) *User {
	u := &User{Name: info.Username, UID: info.UID, Groups: slices.Clone(info.Groups)}
	if len(info.Extra) > 0 {
		u.Extra = make(map[string][]string, len(info.Extra))
		for k, v := range info.Extra {
			u.Extra[k] = v
		}
	}
	return u
}
