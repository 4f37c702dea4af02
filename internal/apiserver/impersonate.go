package apiserver

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

const extraHeader = "Impersonate-Extra-"

// impersonate returns ctx with the identity that the request's Impersonate
// headers ask for, if the requester may take it.
func (s *Server) impersonate(ctx context.Context, r *http.Request) (context.Context, error) {
	name := r.Header.Get("Impersonate-User")
	groups := r.Header.Values("Impersonate-Group")
	uid := r.Header.Get("Impersonate-Uid")
	extra := map[string][]string{}
	for key, values := range r.Header {
		if strings.HasPrefix(key, extraHeader) {
			k, err := url.PathUnescape(strings.ToLower(key[len(extraHeader):]))
			if err != nil {
				k = strings.ToLower(key[len(extraHeader):])
			}
			extra[k] = append(extra[k], values...)
		}
	}
	if name == "" {
		if len(groups) > 0 || uid != "" || len(extra) > 0 {
			return ctx, apierrors.NewBadRequest("requested impersonation of groups, uid or extra without impersonating a user: set Impersonate-User too")
		}
		return ctx, nil
	}
	ask := func(a authz.Attributes) error {
		a.Verb = "impersonate"
		return s.Verbs.Authorize(ctx, &a)
	}
	var err error
	if rest, isSA := strings.CutPrefix(name, identity.ServiceAccountPrefix); isSA && strings.Count(rest, ":") == 1 {
		ns, sa, _ := strings.Cut(rest, ":")
		err = ask(authz.Attributes{Version: "v1", Resource: "serviceaccounts", Namespace: ns, Name: sa})
		if len(groups) == 0 {
			groups = []string{identity.GroupServiceAccounts, identity.GroupServiceAccounts + ":" + ns}
		}
	} else {
		err = ask(authz.Attributes{Version: "v1", Resource: "users", Name: name})
	}
	if err != nil {
		return ctx, err
	}
	for _, g := range r.Header.Values("Impersonate-Group") {
		if err := ask(authz.Attributes{Version: "v1", Resource: "groups", Name: g}); err != nil {
			return ctx, err
		}
	}
	if uid != "" {
		if err := ask(authz.Attributes{Group: "authentication.k8s.io", Version: "v1", Resource: "uids", Name: uid}); err != nil {
			return ctx, err
		}
	}
	for k, values := range extra {
		for _, v := range values {
			if err := ask(authz.Attributes{Group: "authentication.k8s.io", Version: "v1", Resource: "userextras", Subresource: k, Name: v}); err != nil {
				return ctx, err
			}
		}
	}
	user := &identity.User{Name: name, UID: uid, Groups: append([]string(nil), groups...), Extra: extra}
	switch {
	case name == identity.UserAnonymous:
		if !user.InGroup(identity.GroupUnauthenticated) {
			user.Groups = append(user.Groups, identity.GroupUnauthenticated)
		}
	case !user.InGroup(identity.GroupAuthenticated):
		user.Groups = append(user.Groups, identity.GroupAuthenticated)
	}
	return identity.NewContext(ctx, user), nil
}
