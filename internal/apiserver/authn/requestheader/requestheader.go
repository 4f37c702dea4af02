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

// The headers, as kubeadm and the aggregator use them.
const (
	UserHeader        = "X-Remote-User"
	UIDHeader         = "X-Remote-Uid"
	GroupHeader       = "X-Remote-Group"
	ExtraHeaderPrefix = "X-Remote-Extra-"
)

// Authenticator implements authn.Authenticator.
type Authenticator struct {
	// Roots is the front-proxy authority.
	Roots *x509.CertPool
	// AllowedNames are the common names of trusted proxies; none means all.
	AllowedNames []string
	Clock        clock.PassiveClock
}

// Authenticate implements authn.Authenticator. The headers are taken out of
// the request, so that they travel no further.
func (a *Authenticator) Authenticate(r *http.Request) (*identity.User, error) {
	name := r.Header.Get(UserHeader)
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
	user := &identity.User{Name: name, UID: r.Header.Get(UIDHeader), Extra: map[string][]string{}}
	for _, group := range r.Header.Values(GroupHeader) {
		if group != "" {
			user.Groups = append(user.Groups, group)
		}
	}
	for header, values := range r.Header {
		if key, ok := strings.CutPrefix(header, ExtraHeaderPrefix); ok {
			key = extraKey(key)
			user.Extra[key] = append(user.Extra[key], values...)
			r.Header.Del(header)
		}
	}
	r.Header.Del(UserHeader)
	r.Header.Del(UIDHeader)
	r.Header.Del(GroupHeader)
	return authenticated(user), nil
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
