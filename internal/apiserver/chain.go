package apiserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/identity"
)

type warnKey struct{}

func warning(ctx context.Context, text string) {
	if f, ok := ctx.Value(warnKey{}).(func(string)); ok {
		f(text)
	}
}

// ServeHTTP implements http.Handler. A request passes, in this order: browser
// rules, its time limit, authentication, audit, impersonation, flow control,
// authorization.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.browser(w, r) || s.refusedAtEnd(w, r) {
		return
	}
	s.goaway(w, r)
	info := parseRequest(r)
	observed := s.metrics.begin(info)
	rec := &responseRecorder{ResponseWriter: w, code: http.StatusOK, lasting: info.longRunning()}
	defer func() {
		p := recover()
		rec.record.End(p, rec.lasting)
		if p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				observed(rec.code)
				panic(p)
			}
			s.Log.Error("a request made the server panic", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			if !rec.wrote {
				writeError(rec, r, apierrors.NewInternalError(fmt.Errorf("the server failed while it handled the request")))
			}
		}
		observed(rec.code)
	}()
	s.serve(rec, r, info)
}

func (s *Server) serve(w *responseRecorder, r *http.Request, info *requestInfo) {
	warn := func(text string) { w.Header().Add("Warning", warningHeader(text)) }
	ctx := context.WithValue(r.Context(), warnKey{}, warn)
	ctx = verbs.WithWarnings(ctx, warn)
	ctx = verbs.WithUserAgent(ctx, r.UserAgent())
	ctx, done, err := s.deadline(ctx, w, r, info)
	defer done()
	r = r.WithContext(ctx)
	if err == nil {
		r, err = s.identify(w, r, info)
	}
	if err != nil {
		writeError(w, r, err)
		return
	}
	ctx = r.Context()
	attributes := s.attributes(ctx, info, r)
	if attributes, err = s.impersonate(ctx, r, attributes); err != nil {
		writeError(w, r, err)
		return
	}
	ctx = identity.NewContext(ctx, attributes.User)
	ctx, release, ok := s.seat(ctx, w, r, info, attributes.User)
	if !ok {
		return
	}
	defer release()
	r = r.WithContext(ctx)
	if err := s.authorize(ctx, attributes); err != nil {
		writeError(w, r, err)
		return
	}
	if h := s.Extensions.Handler(info.Path); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	if !info.IsResource {
		s.servePath(w, r, info)
		return
	}
	if err := s.serveResource(w, r, info); err != nil {
		writeError(w, r, inTime(ctx, err))
	}
}

// identify finds out who asks, and begins the record of the request.
func (s *Server) identify(w *responseRecorder, r *http.Request, info *requestInfo) (*http.Request, error) {
	id := types.UID(r.Header.Get("Audit-Id"))
	if id == "" {
		id = types.UID(uuid.NewString())
	}
	w.Header().Set("Audit-Id", string(id))
	ctx := r.Context()
	user, failure := s.Authenticator.Authenticate(r)
	s.metrics.authenticated(user, failure)
	if user != nil {
		ctx = identity.NewContext(ctx, user)
	}
	if s.Audit != nil {
		record, err := s.Audit.Begin(id, r, s.attributes(ctx, info, r))
		if err != nil {
			return r, apierrors.NewInternalError(err)
		}
		w.record = record
		ctx = audit.NewContext(ctx, record)
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

func (s *Server) authorize(ctx context.Context, a *authz.Attributes) error {
	decision, reason, err := s.Verbs.Decide(ctx, a)
	s.metrics.authorized(decision)
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

// responseRecorder remembers what was answered.
type responseRecorder struct {
	http.ResponseWriter
	code  int
	wrote bool
	// record is the request's, or nil; lasting tells long-running requests.
	record  *audit.Record
	lasting bool
}

func (r *responseRecorder) WriteHeader(code int) {
	if !r.wrote {
		r.code, r.wrote = code, true
		r.record.Answering(code, r.lasting)
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *responseRecorder) Write(p []byte) (int, error) {
	if !r.wrote {
		r.wrote = true
		r.record.Answering(r.code, r.lasting)
	}
	return r.ResponseWriter.Write(p)
}

// Hijack implements http.Hijacker, which the proxy of upgraded connections asks
// for by type.
func (r *responseRecorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if !r.wrote {
		r.code, r.wrote = http.StatusSwitchingProtocols, true
		r.record.Answering(r.code, r.lasting)
	}
	return http.NewResponseController(r.ResponseWriter).Hijack()
}

// Flush implements http.Flusher.
func (r *responseRecorder) Flush() {
	// A connection that cannot be flushed sends when it ends.
	_ = http.NewResponseController(r.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController find the rest.
func (r *responseRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
