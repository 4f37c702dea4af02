package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	rights := &rights{server: s, mode: m, requester: requesterIn(m, a.User)}
	if m.constrained() {
		on := *a
		on.Verb = "impersonate-on:" + m.name + ":" + a.Verb
		if err := rights.ask(ctx, on); err != nil {
			return nil, err
		}
	}
	user := *wanted
	who := rights.names("users", wanted.Name)
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
	if err := rights.ask(ctx, who); err != nil {
		return nil, err
	}
	if wanted.UID != "" {
		if err := rights.ask(ctx, rights.about("uids", "", wanted.UID)); err != nil {
			return nil, err
		}
	}
	if err := rights.askGroups(ctx, wanted.Groups); err != nil {
		return nil, err
	}
	if err := rights.askExtra(ctx, wanted.Extra); err != nil {
		return nil, err
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

// requesterIn is the requester as the decision sees it. Rights to act as the
// associated node are given for whatever node an account is on: nothing that
// tells the node takes part in the decision.
func requesterIn(m *mode, requester *identity.User) *identity.User {
	if m.name != "associated-node" {
		return requester
	}
	plain := *requester
	plain.Extra = map[string][]string{"authentication.kubernetes.io/associated-node-keys": slices.Sorted(maps.Keys(requester.Extra))}
	return &plain
}

// rights are what a requester may impersonate in a mode.
type rights struct {
	server    *Server
	mode      *mode
	requester *identity.User
}

// names is the question about a name or a group; in the mode without constraints
// those are in no API group.
func (p *rights) names(resource, name string) authz.Attributes {
	a := authz.Attributes{Verb: p.mode.verb(), Version: "v1", Resource: resource, Name: name}
	if p.mode.constrained() {
		a.Group = authenticationv1.GroupName
	}
	return a
}

// about is the question about something else of a user.
func (p *rights) about(resource, subresource, name string) authz.Attributes {
	return authz.Attributes{
		Verb: p.mode.verb(), Group: authenticationv1.GroupName, Version: "v1", Resource: resource, Subresource: subresource, Name: name,
	}
}

func (p *rights) ask(ctx context.Context, a authz.Attributes) error {
	a.User = p.requester
	began := time.Now()
	decision, reason, err := p.server.Verbs.Decide(ctx, &a)
	p.server.metrics.impersonationRights.observe(p.mode.label(), decision == authz.Allow, began)
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

// refuse answers a question without asking anybody.
func (p *rights) refuse(a authz.Attributes, reason string) error {
	a.User = p.requester
	return authz.Forbidden(&a, reason)
}

func (p *rights) askGroups(ctx context.Context, groups []string) error {
	for _, g := range groups {
		a := p.names("groups", g)
		switch {
		case p.mode.constrained() && g == "":
			return p.refuse(a, "impersonating the empty string group is not allowed")
		case p.mode.constrained() && g == identity.GroupMasters:
			return p.refuse(a, "impersonating the system:masters group is not allowed")
		}
		if err := p.ask(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func (p *rights) askExtra(ctx context.Context, extra map[string][]string) error {
	if p.mode.constrained() {
		if err := checkExtra(extra); err != nil {
			return p.refuse(p.about("userextras", "", ""), err.Error())
		}
	}
	for key, values := range extra {
		for _, v := range values {
			if err := p.ask(ctx, p.about("userextras", key, v)); err != nil {
				return err
			}
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
