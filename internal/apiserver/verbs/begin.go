package verbs

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// Ask is what a request that does not come over HTTP brings along: the objects
// it selects, and an object or a patch.
type Ask struct {
	Fields fields.Requirements
	Labels labels.Requirements
	Body   runtime.Object
	Patch  []byte
}

// Done closes a request: err or the answer (which may be nil) is what came of
// it.
type Done func(err error, answer runtime.Object)

// Begin authorizes a request that does not come over HTTP, and begins its audit
// record, which the context carries. If it may not be carried out the error says
// so, and the request is over.
func (s *Server) Begin(ctx context.Context, verb string, req *Request, ask Ask) (context.Context, Done, error) {
	a := &authz.Attributes{
		User: identity.FromContext(ctx), Verb: verb, Group: req.Version.Group, Version: req.Version.Version.Version,
		Resource: req.Resource().Names.Resource, Subresource: req.Subresource,
		Namespace: req.Namespace, Name: req.Name, FieldSelector: ask.Fields, LabelSelector: ask.Labels,
	}
	if s.auditor == nil {
		return ctx, func(error, runtime.Object) {}, s.Authorize(ctx, a)
	}
	agent, _ := ctx.Value(userAgentKey{}).(string)
	record, err := s.auditor.BeginFrom(types.UID(uuid.NewString()), audit.Source{URI: uriOf(req), Agent: agent}, a)
	if err != nil {
		return ctx, nil, apierrors.NewInternalError(err)
	}
	if record != nil {
		ctx = audit.NewContext(ctx, record)
		recordAsk(record, req, ask)
	}
	done := func(err error, answer runtime.Object) { recordAnswer(record, req, verb, err, answer) }
	decision, reason, err := s.Decide(ctx, a)
	audit.Annotate(ctx, "authorization.k8s.io/reason", reason)
	if decision == authz.Allow {
		audit.Annotate(ctx, "authorization.k8s.io/decision", "allow")
		return ctx, done, nil
	}
	audit.Annotate(ctx, "authorization.k8s.io/decision", "forbid")
	if err != nil {
		s.log.Warn("authorization could not be decided in full", "error", err)
	}
	err = authz.Forbidden(a, reason)
	done(err, nil)
	return ctx, nil, err
}

func recordAsk(record *audit.Record, req *Request, ask Ask) {
	if o, ok := ask.Body.(metav1.Object); ok {
		record.Named(o.GetNamespace(), o.GetName(), o.GetUID(), o.GetResourceVersion())
	}
	switch {
	case !record.WantsRequest():
	case ask.Body != nil:
		if body, err := EncodeJSON(req.Version.GVK(), ask.Body); err == nil {
			record.Request(body)
		}
	case json.Valid(ask.Patch):
		record.Request(ask.Patch)
	}
}

func recordAnswer(record *audit.Record, req *Request, verb string, err error, answer runtime.Object) {
	if record == nil {
		return
	}
	code := http.StatusOK
	switch {
	case err != nil:
		status := statusOf(err)
		code = int(status.Code)
		record.Failed(status)
	case verb == "create":
		code = http.StatusCreated
	}
	if answer != nil && err == nil && record.WantsResponse() {
		gvk := answer.GetObjectKind().GroupVersionKind()
		if gvk.Empty() {
			gvk = req.Version.GVK()
		}
		if body, err := EncodeJSON(gvk, answer); err == nil {
			record.Response(body)
		}
	}
	record.Answering(code, false)
	record.End(nil, false)
}

func statusOf(err error) *metav1.Status {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		s := status.Status()
		return &s
	}
	s := apierrors.NewInternalError(err).Status()
	return &s
}

// uriOf is what the request would be over HTTP.
func uriOf(req *Request) string {
	parts := []string{"", "apis", req.Version.Group, req.Version.Version.Version}
	if req.Version.Group == "" {
		parts = []string{"", "api", req.Version.Version.Version}
	}
	if req.Namespace != "" {
		parts = append(parts, "namespaces", url.PathEscape(req.Namespace))
	}
	parts = append(parts, req.Resource().Names.Resource)
	if req.Name != "" {
		parts = append(parts, url.PathEscape(req.Name))
	}
	if req.Subresource != "" {
		parts = append(parts, req.Subresource)
	}
	return strings.Join(parts, "/")
}
