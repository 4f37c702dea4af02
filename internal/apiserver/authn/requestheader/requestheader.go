// Package requestheader authenticates by headers that an authenticating proxy
// sets, which proves itself by a client certificate of the front-proxy
// authority. It stands first in a union, so that the proxy's own certificate
// does not count as the user's.
package requestheader

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"k8s.io/utils/clock"

	authnx509 "skiff/internal/apiserver/authn/x509"
	"skiff/internal/identity"
)

// Headers are those by which a proxy names the user, in the order in which they
// are looked at.
type Headers struct {
	Username, UID, Group, ExtraPrefix []string
}

// WithDefaults returns the headers with those that kubeadm and the aggregator
// use where none are given.
func (h Headers) WithDefaults() Headers {
	for list, name := range map[*[]string]string{&h.Username: "X-Remote-User", &h.UID: "X-Remote-Uid", &h.Group: "X-Remote-Group", &h.ExtraPrefix: "X-Remote-Extra-"} {
		if len(*list) == 0 {
			*list = []string{name}
		}
	}
	return h
}

// Authenticator implements authn.Authenticator.
type Authenticator struct {
	// Roots is the front-proxy authority.
	Roots *x509.CertPool
	// AllowedNames are the common names of trusted proxies; none means all.
	AllowedNames []string
	Headers      Headers
	Clock        clock.PassiveClock
}

// Authenticate implements authn.Authenticator. The headers are taken out of
// the request, so that they travel no further.
func (a *Authenticator) Authenticate(r *http.Request) (*identity.User, error) {
	name := first(r.Header, a.Headers.Username)
	if name == "" || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, nil
	}
	if err := authnx509.Verify(r.TLS.PeerCertificates, a.Roots, a.Clock.Now()); err != nil {
		return nil, err
	}
	proxy := r.TLS.PeerCertificates[0].Subject.CommonName
	if len(a.AllowedNames) > 0 && !slices.Contains(a.AllowedNames, proxy) {
		return nil, fmt.Errorf("subject with cn=%s is not in the allowed list", proxy)
	}
	user := &identity.User{Name: name, UID: first(r.Header, a.Headers.UID), Extra: map[string][]string{}}
	for _, header := range a.Headers.Group {
		for _, group := range r.Header.Values(header) {
			if group != "" {
				user.Groups = append(user.Groups, group)
			}
		}
	}
	for header, values := range r.Header {
		for _, prefix := range a.Headers.ExtraPrefix {
			if len(header) >= len(prefix) && strings.EqualFold(header[:len(prefix)], prefix) {
				key := extraKey(header[len(prefix):])
				user.Extra[key] = append(user.Extra[key], values...)
				r.Header.Del(header)
			}
		}
	}
	for _, headers := range [][]string{a.Headers.Username, a.Headers.UID, a.Headers.Group} {
		for _, header := range headers {
			r.Header.Del(header)
		}
	}
	return authenticated(user), nil
}

// first returns the value of the first of the headers that has one.
func first(h http.Header, names []string) string {
	for _, name := range names {
		if value := h.Get(name); value != "" {
			return value
		}
	}
	return ""
}

// authenticated adds the group of all who have proven who they are, unless the
// proxy says that the user has not.
func authenticated(u *identity.User) *identity.User {
	if u.Name != identity.UserAnonymous && !u.InGroup(identity.GroupAuthenticated) && !u.InGroup(identity.GroupUnauthenticated) {
		u.Groups = append(u.Groups, identity.GroupAuthenticated)
	}
	return u
}

// extraKey undoes what a header's name does to a key: lower case, and escapes
// for what a name may not hold.
func extraKey(s string) string {
	s = strings.ToLower(s)
	if key, err := url.PathUnescape(s); err == nil {
		return key
	}
	return s
}
