// Package audit records who asked what of the API, as a policy says: which
// requests, how much of them, and at which stages. Records go to a log or a
// webhook.
//
// Where no policy is set there is no Auditor, no Record, and nothing to pay.
package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/utils/clock"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// Sink takes events. An error means that the event is lost, which fails the
// request if it comes before the request is carried out.
type Sink interface {
	Write(events ...*auditv1.Event) error
}

// Sinks hands every event to all of them.
type Sinks []Sink

// Write implements Sink.
func (s Sinks) Write(events ...*auditv1.Event) error {
	var first error
	for _, sink := range s {
		if err := sink.Write(events...); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Auditor begins records.
type Auditor struct {
	Policy *Policy
	Sink   Sink
	Clock  clock.PassiveClock
	// Failed is told about events that could not be written.
	Failed  func(error)
	Metrics *Metrics
}

// Record is what is kept of one request. All methods are good on nil: a request
// that is not audited.
type Record struct {
	auditor *Auditor
	omit    []auditv1.Stage
	noOwner bool

	mu struct {
		sync.Mutex
		event auditv1.Event
		// started is set once the stage ResponseStarted is past.
		started bool
	}
}

// ID is the name of the request in the log: what the client says, or a new one.
type ID = types.UID

// Source is where a request comes from: what it asks for, by which program, and
// through which addresses.
type Source struct {
	URI, Agent string
	IPs        []string
}

// Begin starts the record of a request over HTTP, or returns nil if the policy
// does not want it. The requester is that of a; it may be nobody.
func (a *Auditor) Begin(id ID, r *http.Request, attributes *authz.Attributes) (*Record, error) {
	from := Source{URI: r.URL.RequestURI(), Agent: userAgent(r)}
	for _, ip := range utilnet.SourceIPs(r) {
		from.IPs = append(from.IPs, ip.String())
	}
	return a.BeginFrom(id, from, attributes)
}

// BeginFrom is Begin for a request that may come by another way.
func (a *Auditor) BeginFrom(id ID, from Source, attributes *authz.Attributes) (*Record, error) {
	rule := a.Policy.match(attributes)
	a.Metrics.began(rule.Level)
	if rule.Level == auditv1.LevelNone {
		return nil, nil
	}
	now := metav1.NewMicroTime(a.Clock.Now())
	rec := &Record{auditor: a, omit: rule.OmitStages, noOwner: *rule.OmitManagedFields}
	e := &rec.mu.event
	*e = auditv1.Event{
		Level: rule.Level, AuditID: id, RequestURI: from.URI, Verb: attributes.Verb, UserAgent: from.Agent, SourceIPs: from.IPs,
		RequestReceivedTimestamp: now, StageTimestamp: now,
	}
	e.SetGroupVersionKind(auditv1.SchemeGroupVersion.WithKind("Event"))
	if attributes.User != nil {
		e.User = attributes.User.Info()
	}
	if attributes.IsResource() {
		e.ObjectRef = &auditv1.ObjectReference{
			Namespace: attributes.Namespace, Name: attributes.Name, Resource: attributes.Resource, Subresource: attributes.Subresource,
			APIGroup: attributes.Group, APIVersion: attributes.Version,
		}
	}
	return rec, rec.write(auditv1.StageRequestReceived)
}

func userAgent(r *http.Request) string {
	const longest, end = 1024, "...TRUNCATED"
	if agent := r.UserAgent(); len(agent) > longest {
		return agent[:longest] + end
	}
	return r.UserAgent()
}

// write hands the event as it is now to the sink.
func (r *Record) write(stage auditv1.Stage) error {
	if slices.Contains(r.omit, stage) {
		return nil
	}
	r.mu.Lock()
	r.mu.event.Stage = stage
	if stage != auditv1.StageRequestReceived {
		r.mu.event.StageTimestamp = metav1.NewMicroTime(r.auditor.Clock.Now())
	}
	event := r.mu.event
	event.Annotations = cloneMap(event.Annotations)
	r.mu.Unlock()
	err := r.auditor.Sink.Write(&event)
	r.auditor.Metrics.wrote(stage, err)
	if err != nil {
		if r.auditor.Failed != nil {
			r.auditor.Failed(err)
		}
		return fmt.Errorf("failed to store audit event: %w", err)
	}
	return nil
}

func cloneMap(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// change lets f change the event.
func (r *Record) change(f func(*auditv1.Event)) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.mu.event)
}

// Impersonated records on whose behalf the request is carried out, and by which
// rule of constrained impersonation, if by one.
func (r *Record) Impersonated(u *identity.User, constraint string) {
	r.change(func(e *auditv1.Event) {
		info := u.Info()
		e.ImpersonatedUser = &info
		if constraint != "" {
			e.AuthenticationMetadata = &auditv1.AuthenticationMetadata{ImpersonationConstraint: constraint}
		}
	})
}

// WantsRequest and WantsResponse tell whether the bodies are recorded.
func (r *Record) WantsRequest() bool {
	return r != nil && (r.mu.event.Level == auditv1.LevelRequest || r.mu.event.Level == auditv1.LevelRequestResponse)
}

// WantsResponse tells whether the answer's body is recorded.
func (r *Record) WantsResponse() bool {
	return r != nil && r.mu.event.Level == auditv1.LevelRequestResponse
}

// Request records the request's body, which is JSON.
func (r *Record) Request(body []byte) {
	r.change(func(e *auditv1.Event) { e.RequestObject = r.unknown(body) })
}

// Named completes the object's name and identity, which on create only the
// body has.
func (r *Record) Named(namespace, name string, uid types.UID, revision string) {
	r.change(func(e *auditv1.Event) {
		if ref := e.ObjectRef; ref != nil {
			setEmpty(&ref.Namespace, namespace)
			setEmpty(&ref.Name, name)
			setEmpty(&ref.UID, uid)
			setEmpty(&ref.ResourceVersion, revision)
		}
	})
}

func setEmpty[T ~string](field *T, value T) {
	if *field == "" {
		*field = value
	}
}

// Response records the answer's body, which is JSON. The first counts: what
// comes after is another form of it.
func (r *Record) Response(body []byte) {
	r.change(func(e *auditv1.Event) {
		if e.ResponseObject == nil {
			e.ResponseObject = r.unknown(body)
		}
	})
}

// Failed records the status that is answered in place of an object.
func (r *Record) Failed(status *metav1.Status) {
	r.change(func(e *auditv1.Event) {
		e.ResponseStatus = &metav1.Status{Status: status.Status, Message: status.Message, Reason: status.Reason, Details: status.Details, Code: status.Code}
	})
}

// unknown wraps a body, without its managed fields if the policy says so.
func (r *Record) unknown(body []byte) *runtime.Unknown {
	if r.noOwner {
		var obj map[string]any
		if json.Unmarshal(body, &obj) == nil {
			dropManagedFields(obj)
			if smaller, err := json.Marshal(obj); err == nil {
				body = smaller
			}
		}
	}
	return &runtime.Unknown{Raw: slices.Clone(body), ContentType: runtime.ContentTypeJSON}
}

func dropManagedFields(obj map[string]any) {
	if meta, ok := obj["metadata"].(map[string]any); ok {
		delete(meta, "managedFields")
	}
	items, _ := obj["items"].([]any)
	for _, item := range items {
		if inner, ok := item.(map[string]any); ok {
			dropManagedFields(inner)
		}
	}
}

// Answering records the status code; requests that last are recorded when they
// begin to be answered, too.
func (r *Record) Answering(code int, lasting bool) {
	if r == nil {
		return
	}
	r.mu.Lock()
	if r.mu.started {
		r.mu.Unlock()
		return
	}
	r.mu.started = true
	e := &r.mu.event
	if e.ResponseStatus == nil {
		e.ResponseStatus = &metav1.Status{}
	}
	e.ResponseStatus.Code = int32(code)
	r.mu.Unlock()
	if lasting {
		// The answer is under way: it can no longer be refused.
		_ = r.write(auditv1.StageResponseStarted)
	}
}

// End closes the record; panicked is what stopped the request, or nil.
func (r *Record) End(panicked any, lasting bool) {
	if r == nil {
		return
	}
	if panicked != nil {
		r.Failed(&metav1.Status{
			Code: http.StatusInternalServerError, Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError,
			Message: fmt.Sprintf("APIServer panic'd: %v", panicked),
		})
		_ = r.write(auditv1.StagePanic)
		return
	}
	r.mu.Lock()
	silent := !r.mu.started
	if silent {
		r.mu.event.ResponseStatus = &metav1.Status{Code: http.StatusOK, Status: metav1.StatusSuccess, Message: "Connection closed early"}
	}
	r.mu.Unlock()
	if silent && lasting {
		_ = r.write(auditv1.StageResponseStarted)
	}
	const slow = 500 * time.Millisecond
	if took := r.auditor.Clock.Since(r.mu.event.RequestReceivedTimestamp.Time); took > slow {
		r.annotate("apiserver.latency.k8s.io/total", took.String())
	}
	_ = r.write(auditv1.StageResponseComplete)
}

func (r *Record) annotate(key, value string) {
	r.change(func(e *auditv1.Event) {
		if e.Annotations == nil {
			e.Annotations = map[string]string{}
		}
		if _, ok := e.Annotations[key]; !ok {
			e.Annotations[key] = value
		}
	})
}

type contextKey struct{}

// NewContext returns ctx carrying the record.
func NewContext(ctx context.Context, r *Record) context.Context {
	if r == nil {
		return ctx
	}
	return context.WithValue(ctx, contextKey{}, r)
}

// FromContext returns the request's record, or nil.
func FromContext(ctx context.Context) *Record {
	r, _ := ctx.Value(contextKey{}).(*Record)
	return r
}

// Notes are annotations from before the record began, when it is found out who
// asks. They belong to one goroutine.
type Notes struct{ pairs [][2]string }

type notesKey struct{}

// Note returns ctx carrying notes.
func Note(ctx context.Context) (context.Context, *Notes) {
	n := &Notes{}
	return context.WithValue(ctx, notesKey{}, n), n
}

// Into adds the notes to the record.
func (n *Notes) Into(r *Record) {
	for _, p := range n.pairs {
		r.annotate(p[0], p[1])
	}
}

// Annotate adds an annotation to the request's record, if there is one or will
// be; what is said first stays.
func Annotate(ctx context.Context, key, value string) {
	if r := FromContext(ctx); r != nil {
		r.annotate(key, value)
	} else if n, ok := ctx.Value(notesKey{}).(*Notes); ok {
		n.pairs = append(n.pairs, [2]string{key, value})
	}
}
