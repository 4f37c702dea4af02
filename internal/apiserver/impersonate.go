package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// mode is one way to act as somebody else. Constrained modes (KEP-5284) need
// the right to impersonate in that mode, and the right to do in that mode what
// is done; they apply to the users that they are meant for. The last mode is
// the unconstrained one, whose only right is "impersonate".
type mode struct {
	name    string
	applies func(wanted, requester *identity.User) bool
}

// label is the mode's name in metrics.
func (m *mode) label() string {
	if m.constrained() {
		return m.name
	}
	return "legacy"
}

func (m *mode) constrained() bool { return m.name != "" }

func (m *mode) verb() string {
	if m.constrained() {
		return "impersonate:" + m.name
	}
	return "impersonate"
}

func modes() []mode {
	isNode := func(u *identity.User) bool { _, ok := nodeName(u.Name); return ok && onlyName(u) }
	return []mode{
		{"associated-node", func(wanted, requester *identity.User) bool {
			node, _ := nodeName(wanted.Name)
			_, _, account := accountName(requester.Name)
			at := requester.Extra["authentication.kubernetes.io/node-name"]
			return isNode(wanted) && account && len(at) == 1 && at[0] == node
		}},
		{"arbitrary-node", func(wanted, _ *identity.User) bool { return isNode(wanted) }},
		{"serviceaccount", func(wanted, _ *identity.User) bool {
			_, _, ok := accountName(wanted.Name)
			return ok && onlyName(wanted)
		}},
		{"user-info", func(wanted, _ *identity.User) bool {
			_, node := nodeName(wanted.Name)
			_, _, account := accountName(wanted.Name)
			return !node && !account
		}},
		{"", func(_, _ *identity.User) bool { return true }},
	}
}

func onlyName(u *identity.User) bool { return u.UID == "" && len(u.Groups) == 0 && len(u.Extra) == 0 }

func nodeName(user string) (string, bool) {
	name, ok := strings.CutPrefix(user, identity.NodePrefix)
	return name, ok && len(validation.NameIsDNSSubdomain(name, false)) == 0
}

func accountName(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, identity.ServiceAccountPrefix)
	namespace, name, cut := strings.Cut(rest, ":")
	return namespace, name, ok && cut && len(validation.ValidateNamespaceName(namespace, false)) == 0 && len(validation.ValidateServiceAccountName(name, false)) == 0
}

// impersonate returns the request's attributes with the user that its
// Impersonate headers ask for, if the requester may act as that one.
func (s *Server) impersonate(ctx context.Context, r *http.Request, a *authz.Attributes) (*authz.Attributes, error) {
	wanted, err := wantedUser(r.Header)
	if wanted == nil || err != nil {
		return a, err
	}
	began := time.Now()
	var first error
	for _, m := range modes() {
		if !m.applies(wanted, a.User) {
			continue
		}
		user, err := s.actAs(ctx, &m, wanted, a)
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		s.metrics.impersonation.observe(m.label(), true, began)
		constraint := ""
		if m.constrained() {
			constraint = m.verb()
		}
		audit.FromContext(ctx).Impersonated(user, constraint)
		as := *a
		as.User = user
		return &as, nil
	}
	s.metrics.impersonation.observe("", false, began)
	return a, first
}

// wantedUser reads the headers and takes them out of the request: nothing
// behind may behave differently because of them.
func wantedUser(h http.Header) (*identity.User, error) {
	u := &identity.User{
		Name: h.Get(authenticationv1.ImpersonateUserHeader), UID: h.Get(authenticationv1.ImpersonateUIDHeader),
		Groups: slices.Clone(h.Values(authenticationv1.ImpersonateGroupHeader)),
	}
	for header, values := range h {
		rest, ok := strings.CutPrefix(header, authenticationv1.ImpersonateUserExtraHeaderPrefix)
		if !ok || len(values) == 0 {
			continue
		}
		key := strings.ToLower(rest)
		if plain, err := url.PathUnescape(key); err == nil {
			key = plain
		}
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[key] = append(u.Extra[key], values...)
		h.Del(header)
	}
	if u.Name == "" {
		if u.UID != "" || len(u.Groups) > 0 || len(u.Extra) > 0 {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("requested &user.DefaultInfo{Name:\"\", UID:%q, Groups:%#v, Extra:%#v} without impersonating a user name", u.UID, u.Groups, u.Extra))
		}
		return nil, nil
	}
	h.Del(authenticationv1.ImpersonateUserHeader)
	h.Del(authenticationv1.ImpersonateUIDHeader)
	h.Del(authenticationv1.ImpersonateGroupHeader)
	return u, nil
}

// actAs asks whether the requester may act as wanted in the mode, and returns
// who that is.
func (s *Server) actAs(ctx context.Context, m *mode, wanted *identity.User, a *authz.Attributes) (*identity.User, error) {
	requester := a.User
	if m.name == "associated-node" {
		// Rights are given for whatever node the account is on: nothing that
		// tells the node takes part in the decision.
		var keys []string
		for key := range requester.Extra {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		plain := *requester
		plain.Extra = map[string][]string{"authentication.kubernetes.io/associated-node-keys": keys}
		requester = &plain
	}
	ask := func(a authz.Attributes) error {
		a.User = requester
		began := time.Now()
		decision, reason, err := s.Verbs.Decide(ctx, &a)
		s.metrics.impersonationRights.observe(m.label(), decision == authz.Allow, began)
		switch {
		case decision == authz.Allow:
			return nil
		case err != nil && reason != "":
			reason = fmt.Sprintf("%v: %s", err, reason)
		case err != nil:
			reason = err.Error()
		}
		return authz.Forbidden(&a, reason)
	}
	const group = "authentication.k8s.io"
	names := authz.Attributes{Verb: m.verb(), Version: "v1"}
	if m.constrained() {
		on := *a
		on.Verb = "impersonate-on:" + m.name + ":" + a.Verb
		if err := ask(on); err != nil {
			return nil, err
		}
		names.Group = group
	}
	user := *wanted
	who := names
	who.Resource, who.Name = "users", wanted.Name
	if node, ok := nodeName(wanted.Name); ok && m.constrained() {
		who.Resource, who.Name = "nodes", node
		user.Groups = []string{identity.GroupNodes}
		if m.name == "associated-node" {
			who.Name = "*"
		}
	}
	if namespace, name, ok := accountName(wanted.Name); ok {
		who.Resource, who.Namespace, who.Name = "serviceaccounts", namespace, name
		if len(wanted.Groups) == 0 {
			user.Groups = []string{identity.GroupServiceAccounts, identity.GroupServiceAccounts + ":" + namespace}
		}
	}
	if err := ask(who); err != nil {
		return nil, err
	}
	about := func(resource, subresource, name string) authz.Attributes {
		return authz.Attributes{Verb: m.verb(), Group: group, Version: "v1", Resource: resource, Subresource: subresource, Name: name}
	}
	if wanted.UID != "" {
		if err := ask(about("uids", "", wanted.UID)); err != nil {
			return nil, err
		}
	}
	if err := s.askGroups(m, names, wanted.Groups, requester, ask); err != nil {
		return nil, err
	}
	if m.constrained() {
		if err := checkExtra(wanted.Extra); err != nil {
			refused := about("userextras", "", "")
			refused.User = requester
			return nil, authz.Forbidden(&refused, err.Error())
		}
	}
	for key, values := range wanted.Extra {
		for _, v := range values {
			if err := ask(about("userextras", key, v)); err != nil {
				return nil, err
			}
		}
	}
	user.Groups = slices.Clone(user.Groups)
	switch {
	case user.Name == identity.UserAnonymous:
		if !user.InGroup(identity.GroupUnauthenticated) {
			user.Groups = append(user.Groups, identity.GroupUnauthenticated)
		}
	case !user.InGroup(identity.GroupUnauthenticated) && !user.InGroup(identity.GroupAuthenticated):
		user.Groups = append(user.Groups, identity.GroupAuthenticated)
	}
	return &user, nil
}

func (s *Server) askGroups(m *mode, names authz.Attributes, groups []string, requester *identity.User, ask func(authz.Attributes) error) error {
	names.Resource = "groups"
	for _, g := range groups {
		names.Name = g
		if m.constrained() {
			refused := names
			refused.User = requester
			switch g {
			case "":
				return authz.Forbidden(&refused, "impersonating the empty string group is not allowed")
			case identity.GroupMasters:
				return authz.Forbidden(&refused, "impersonating the system:masters group is not allowed")
			}
		}
		if err := ask(names); err != nil {
			return err
		}
	}
	return nil
}

// checkExtra holds the constrained modes to well-formed values.
func checkExtra(extra map[string][]string) error {
	for key, values := range extra {
		if key == "" {
			return errors.New("impersonating the empty string key in extra is not allowed")
		}
		if err := utilvalidation.IsDomainPrefixedPath(field.NewPath("extra", "key"), key).ToAggregate(); err != nil {
			return fmt.Errorf("impersonating an invalid key in extra is not allowed: %w", err)
		}
		if slices.Contains(values, "") {
			return errors.New("impersonating the empty string value in extra is not allowed")
		}
	}
	return nil
}
