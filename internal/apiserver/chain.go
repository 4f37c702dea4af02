package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/features"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/identity"
)

// ServeHTTP implements http.Handler. A request passes, in this order: browser
// rules, its time limit, authentication, audit, impersonation, flow control,
// authorization.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.browser(w, r) || s.refusedAtEnd(w, r) {
		return
	}
	s.goaway(w, r)
	info := parseRequest(r)
	if info.Unclear {
		w.Header().Set("Audit-Id", string(auditID(r)))
		http.Error(w, fmt.Sprintf("Internal Server Error: %q: failed to create RequestInfo: unable to determine kind and namespace from url, %v", r.RequestURI, r.URL), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-cache, private")
	if !info.longRunning() && !probes(r) {
		s.underWay.RLock()
		defer s.underWay.RUnlock()
	}
	rec := newRecorder(w, r, info.longRunning())
	observed := s.metrics.begin(s.Verbs, info, r)
	var out outcome
	if rec.lasting {
		out = s.lasting(rec, r, info)
	} else {
		out = s.bounded(rec, r, info)
	}
	abort := out.panicked == http.ErrAbortHandler
	if out.panicked != nil && !abort {
		s.Log.Error("a request made the server panic", "path", r.URL.Path, "panic", out.panicked, "stack", out.stack)
		if !rec.begun() {
			writeError(rec, r, apierrors.NewInternalError(fmt.Errorf("the server failed while it handled the request")))
		}
	}
	code, size, record := rec.end()
	record.End(out.panicked, rec.lasting)
	observed.end(rec, out, code, size)
	if abort {
		panic(http.ErrAbortHandler)
	}
}

// serve handles a request within its time; late is what was wrong with the
// limit that the request asks for.
func (s *Server) serve(ctx context.Context, w *recorder, r *http.Request, info *requestInfo, late error) {
	warn := (&warnings{header: w.Header()}).add
	ctx = context.WithValue(ctx, warnKey{}, warn)
	ctx = verbs.WithWarnings(ctx, warn)
	ctx = verbs.WithUserAgent(ctx, r.UserAgent())
	if s.Features.Enabled(features.CBORServingAndStorage) {
		ctx = context.WithValue(ctx, cborKey{}, true)
	}
	r = r.WithContext(ctx)
	if late != nil {
		writeError(w, r, late)
		return
	}
	r, err := s.identify(w, r, info)
	if err != nil {
		writeError(w, r, err)
		return
	}
	ctx = r.Context()
	began := time.Now()
	attributes := s.attributes(ctx, info, r)
	if attributes, err = s.impersonate(ctx, r, attributes); err != nil {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		writeError(w, r, err)
		return
	}
	began = s.metrics.passed(filterImpersonation, began)
	ctx = identity.NewContext(ctx, attributes.User)
	ctx, release, ok := s.seat(ctx, w, r, info, attributes.User)
	if !ok {
		return
	}
	defer release()
	began = s.metrics.passed(filterFlowControl, began)
	r = r.WithContext(ctx)
	err = s.authorize(ctx, attributes, began)
	s.metrics.passed(filterAuthorization, began)
	if err != nil {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		writeError(w, r, err)
		return
	}
	if h := s.Extensions.Handler(info.Path); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	switch {
	case nowhere(info.Path):
		http.NotFound(w, r)
	case !info.IsResource:
		s.servePath(w, r, info)
	default:
		if err := s.serveResource(w, r, info); err != nil {
			writeError(w, r, inTime(ctx, err))
		}
	}
}

// nowhere tells paths that would be read as others if slashes did not count where
// they have to be single ones.
func nowhere(path string) bool {
	return strings.HasPrefix(path, "//") || strings.HasPrefix(path, "/apis//")
}

// auditID is what the request is called in audit logs, by its client's wish.
func auditID(r *http.Request) types.UID {
	if id := r.Header.Get("Audit-Id"); id != "" {
		return types.UID(id)
	}
	return types.UID(uuid.NewString())
}

// identify finds out who asks, and begins the record of the request.
func (s *Server) identify(w *recorder, r *http.Request, info *requestInfo) (*http.Request, error) {
	id := auditID(r)
	w.Header().Set("Audit-Id", string(id))
	ctx := r.Context()
	began := time.Now()
	notes := &audit.Notes{}
	if s.Audit != nil {
		ctx, notes = audit.Note(ctx)
		r = r.WithContext(ctx)
	}
	user, failure := s.Authenticator.Authenticate(r)
	s.metrics.authenticated(r, user, failure, began)
	began = s.metrics.passed(filterAuthentication, began)
	if user != nil {
		ctx = identity.NewContext(ctx, user)
	}
	if s.Audit != nil {
		record, err := s.Audit.Begin(id, r, s.attributes(ctx, info, r))
		if err != nil {
			return r, apierrors.NewInternalError(err)
		}
		if record != nil {
			notes.Into(record)
		}
		w.audited(record)
		ctx = audit.NewContext(ctx, record)
		s.metrics.passed(filterAudit, began)
	}
	r = r.WithContext(ctx)
	if user == nil {
		if failure != nil {
			s.Log.Debug("authentication failed", "path", info.Path, "error", failure)
		}
		return r, apierrors.NewUnauthorized("Unauthorized")
	}
	return r, nil
}

// attributes describe the request to authorizers. Selectors that cannot be
// parsed are left out: the request will be refused because of them.
func (s *Server) attributes(ctx context.Context, info *requestInfo, r *http.Request) *authz.Attributes {
	a := &authz.Attributes{User: identity.FromContext(ctx), Verb: info.Verb}
	if !info.IsResource {
		a.Path = info.Path
		return a
	}
	a.Group, a.Version, a.Resource, a.Subresource = info.GroupVersion.Group, info.GroupVersion.Version, info.Resource, info.Subresource
	a.Namespace, a.Name = info.Namespace, info.Name
	if a.Verb == "list" || a.Verb == "watch" || a.Verb == "deletecollection" {
		q := r.URL.Query()
		if v := q.Get("fieldSelector"); v != "" {
			if selector, err := fields.ParseSelector(v); err == nil {
				a.FieldSelector = selector.Requirements()
			}
		}
		if v := q.Get("labelSelector"); v != "" {
			if selector, err := labels.Parse(v); err == nil {
				a.LabelSelector, _ = selector.Requirements()
			}
		}
	}
	return a
}

func (s *Server) authorize(ctx context.Context, a *authz.Attributes, began time.Time) error {
	decision, reason, err := s.Verbs.Decide(ctx, a)
	s.metrics.authorized(decision, err, began)
	if decision == authz.Allow {
		audit.Annotate(ctx, "authorization.k8s.io/decision", "allow")
		audit.Annotate(ctx, "authorization.k8s.io/reason", reason)
		return nil
	}
	if err != nil {
		s.Log.Warn("authorization could not be decided in full", "error", err)
	}
	audit.Annotate(ctx, "authorization.k8s.io/decision", "forbid")
	audit.Annotate(ctx, "authorization.k8s.io/reason", reason)
	return authz.Forbidden(a, reason)
}
