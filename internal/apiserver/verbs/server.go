// Package verbs is the API: get, list, watch, create, update, patch, apply,
// delete and deletecollection over every declared resource. It stands below
// HTTP and above the store; HTTP handlers, the in-process client and the
// garbage collector all go through it, so defaulting, admission, validation
// and field ownership are the same for everyone.
//
// All errors are API errors (*errors.StatusError) with upstream's status,
// reason and causes.
package verbs

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/utils/clock"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/fieldset"
	"skiff/internal/apiserver/precision"
	"skiff/internal/identity"
	"skiff/internal/store"
	"skiff/internal/store/cache"
)

// Config is what a Server is made of.
type Config struct {
	Engine store.Engine
	Cache  *cache.Cache
	Scheme *runtime.Scheme
	Clock  clock.WithTicker
	Log    *slog.Logger
	// StaleValue reports whether a key's stored bytes are out of date though
	// the object is not, e.g. encrypted with an old key; nil: they never are.
	StaleValue func(ctx context.Context, key string) bool
	// Names makes a name that begins with base; nil: with five random characters.
	Names func(base string) string
	// Metrics is where the server's metrics go; nil: nowhere.
	Metrics prometheus.Registerer
	// Schemas gives the schemas of a resource's types, by their names; nil: there
	// are none beside those of client-go.
	Schemas func(d *apis.Resource) map[string]*spec.Schema
	// Audit records requests that do not come over HTTP; nil records none.
	Audit *audit.Auditor
}

// Server carries out verbs.
type Server struct {
	engine store.Engine
	cache  *cache.Cache
	scheme *runtime.Scheme
	clock  clock.WithTicker
	log    *slog.Logger

	staleValue func(ctx context.Context, key string) bool
	metrics    *metrics
	names      func(base string) string
	auditor    *audit.Auditor

	// authorizer and admission are set once, before the first request.
	authorizer authz.Authorizer
	admission  admission.Chain

	// typeConverter knows the schema of all built-in types. It takes a while
	// to make, so that is done off the path of start.
	typeConverter func() managedfields.TypeConverter
	schemas       func(d *apis.Resource) map[string]*spec.Schema
	scaleManager  func() (*managedfields.FieldManager, error)

	mu struct {
		sync.RWMutex
		resources map[schema.GroupResource]*Resource
		kinds     map[schema.GroupVersionKind]*Resource
		// generation counts changes to the set of resources.
		generation int64
		changed    chan struct{}
	}
}

// New makes a server without resources.
func New(c Config) *Server {
	s := &Server{
		engine: c.Engine, cache: c.Cache, scheme: c.Scheme, clock: c.Clock, log: c.Log, staleValue: c.StaleValue,
		metrics: newMetrics(c.Metrics), names: c.Names, auditor: c.Audit, schemas: c.Schemas,
	}
	if s.staleValue == nil {
		s.staleValue = func(context.Context, string) bool { return false }
	}
	if s.names == nil {
		s.names = generateName
	}
	s.typeConverter = sync.OnceValue(func() managedfields.TypeConverter {
		return applyconfigurations.NewTypeConverter(c.Scheme)
	})
	s.scaleManager = sync.OnceValues(newScaleManager)
	s.mu.resources = make(map[schema.GroupResource]*Resource)
	s.mu.kinds = make(map[schema.GroupVersionKind]*Resource)
	s.mu.changed = make(chan struct{})
	if c.Metrics != nil {
		c.Metrics.MustRegister(s)
	}
	return s
}

// SetPolicy gives the server its authorizer and admission plug-ins, which may
// themselves read through the server. It must be called before the first
// request.
func (s *Server) SetPolicy(a authz.Authorizer, c admission.Chain) {
	s.authorizer, s.admission = a, c
}

// Warm makes what the first write would otherwise wait for.
func (s *Server) Warm() { s.typeConverter() }

// Scheme returns the types of the built-in resources.
func (s *Server) Scheme() *runtime.Scheme { return s.scheme }

// Cache returns the state below.
func (s *Server) Cache() *cache.Cache { return s.cache }

// Resource is a declared resource that is being served.
type Resource struct {
	*apis.Resource
	// Collection is nil for virtual resources.
	Collection *cache.Collection
	// Versions are the served versions, the hub first.
	Versions []*Version
	// hub is the version that is stored, served or not.
	hub *Version

	selectable map[string]func(apis.Object) string
	counts     *counts
	// times and lists round what is to be stored: the cache has what a client
	// would read. Validation sees the times as they will be, and empty lists as
	// they came.
	times, lists func() *precision.Rounder
}

// Version is one served version of a Resource.
type Version struct {
	*apis.Version
	IsHub bool
	// Deprecation is the warning that comes with every answer in a version that is
	// deprecated.
	Deprecation string

	resource *Resource
	managers map[string]func() (*managedfields.FieldManager, error)
	// newFields tells whose fields new objects are faster than managers do;
	// it may give nil.
	newFields func() *fieldset.Writer
}

func (s *Server) newResource(d *apis.Resource) *Resource {
	r := &Resource{Resource: d, counts: s.metrics.counts(d.Group, d.Names.Resource), selectable: map[string]func(apis.Object) string{
		"metadata.name":      func(o apis.Object) string { return o.GetName() },
		"metadata.namespace": func(o apis.Object) string { return o.GetNamespace() },
	}}
	r.times = sync.OnceValue(func() *precision.Rounder { return precision.Of(d.Hub.New(), false) })
	r.lists = r.times
	if d.Custom == nil && !storedAsJSON[d.Group] {
		r.lists = sync.OnceValue(func() *precision.Rounder { return precision.Of(d.Hub.New(), true) })
	}
	for path, f := range d.Fields {
		r.selectable[path] = f
	}
	hub := &Version{Version: &d.Hub, IsHub: true, resource: r}
	r.hub = hub
	if !d.Hub.Unserved {
		r.Versions = append(r.Versions, hub)
	}
	for i := range d.Other {
		r.Versions = append(r.Versions, &Version{Version: &d.Other[i], resource: r})
	}
	for _, v := range r.Versions {
		s.prepareFieldManagers(v)
		v.Deprecation = v.Warning
		if v.Deprecation == "" && d.Custom == nil {
			v.Deprecation = deprecation(v.GVK(), v.New())
		}
	}
	return r
}

// release is the minor version of Kubernetes 1 that this is.
const release = 36

// deprecation is the warning against a kind that its type says is deprecated by
// now.
func deprecation(gvk schema.GroupVersionKind, obj runtime.Object) string {
	d, ok := obj.(interface{ APILifecycleDeprecated() (major, minor int) })
	if !ok {
		return ""
	}
	major, minor := d.APILifecycleDeprecated()
	if major > 1 || minor > release {
		return ""
	}
	text := fmt.Sprintf("%s %s is deprecated in v%d.%d+", gvk.GroupVersion(), gvk.Kind, major, minor)
	if r, ok := obj.(interface{ APILifecycleRemoved() (major, minor int) }); ok {
		major, minor := r.APILifecycleRemoved()
		text += fmt.Sprintf(", unavailable in v%d.%d+", major, minor)
	}
	if r, ok := obj.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}); ok {
		other := r.APILifecycleReplacement()
		text += fmt.Sprintf("; use %s %s", other.GroupVersion(), other.Kind)
	}
	return text
}

// Add serves a resource from now on.
func (s *Server) Add(ctx context.Context, d *apis.Resource) (*Resource, error) {
	r := s.newResource(d)
	if d.Virtual == nil {
		index := map[string]func(apis.Object) string{}
		if f := d.Fields["spec.nodeName"]; f != nil {
			index["spec.nodeName"] = f
		}
		col, err := s.cache.Add(ctx, d.Prefix, storageDecoder(d), index)
		if err != nil {
			return nil, fmt.Errorf("serving %s: %w", d.GroupResource(), err)
		}
		if d.Large {
			col.LetGo()
		}
		if d.Custom != nil {
			col.KeepStored()
		}
		r.Collection = col
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, dup := s.mu.resources[d.GroupResource()]; dup {
		return nil, fmt.Errorf("resource %s is declared twice", d.GroupResource())
	}
	s.serveLocked(r)
	return r, nil
}

// Replace serves a resource by another declaration from now on. Its watches
// end, and may be resumed at once.
func (s *Server) Replace(d *apis.Resource) (*Resource, error) {
	r := s.newResource(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.mu.resources[d.GroupResource()]
	if old == nil {
		return nil, fmt.Errorf("resource %s is not served", d.GroupResource())
	}
	col, err := s.cache.Replace(d.Prefix, storageDecoder(d), nil)
	if err != nil {
		return nil, err
	}
	r.Collection = col
	for _, v := range old.Versions {
		delete(s.mu.kinds, v.GVK())
	}
	s.serveLocked(r)
	return r, nil
}

func (s *Server) serveLocked(r *Resource) {
	d := r.Resource
	s.mu.resources[d.GroupResource()] = r
	for _, v := range r.Versions {
		if d.Virtual == nil || s.mu.kinds[v.GVK()] == nil {
			s.mu.kinds[v.GVK()] = r
		}
		// A version in another group makes the resource known there too.
		if v.Group != d.Group {
			s.mu.resources[schema.GroupResource{Group: v.Group, Resource: d.Names.Resource}] = r
		}
	}
	s.changedLocked()
}

// Remove stops serving a resource; its objects stay in the store.
func (s *Server) Remove(gr schema.GroupResource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.mu.resources[gr]
	if r == nil {
		return
	}
	delete(s.mu.resources, gr)
	for _, v := range r.Versions {
		delete(s.mu.kinds, v.GVK())
	}
	if r.Collection != nil {
		s.cache.Remove(r.Prefix)
	}
	s.changedLocked()
}

func (s *Server) changedLocked() {
	s.mu.generation++
	close(s.mu.changed)
	s.mu.changed = make(chan struct{})
}

// Announce tells that something which discovery shows of a resource, though not
// the resource itself, is different now.
func (s *Server) Announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changedLocked()
}

// Generation identifies the present set of resources; the channel is closed
// when it changes.
func (s *Server) Generation() (int64, <-chan struct{}) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.generation, s.mu.changed
}

// Resources returns everything that is served, once each, in no order.
func (s *Server) Resources() []*Resource {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*Resource, 0, len(s.mu.resources))
	for gr, r := range s.mu.resources {
		if gr == r.GroupResource() {
			out = append(out, r)
		}
	}
	return out
}

// Lookup finds a resource by group and plural, nil if it is not served.
func (s *Server) Lookup(gr schema.GroupResource) *Resource {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.resources[gr]
}

// LookupKind finds the stored resource of a kind in one of its versions.
func (s *Server) LookupKind(gvk schema.GroupVersionKind) (*Resource, *Version) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.mu.kinds[gvk]
	if r == nil {
		return nil, nil
	}
	for _, v := range r.Versions {
		if v.GVK() == gvk {
			return r, v
		}
	}
	return nil, nil
}

// Version returns the served version, or nil.
func (r *Resource) Version(gv schema.GroupVersion) *Version {
	for _, v := range r.Versions {
		if v.GroupVersion() == gv {
			return v
		}
	}
	return nil
}

// Served are the versions that clients see.
func (r *Resource) Served() iter.Seq[*Version] {
	return func(yield func(*Version) bool) {
		for _, v := range r.Versions {
			if !v.Off && !yield(v) {
				return
			}
		}
	}
}

// Resource returns the resource that v is a version of.
func (v *Version) Resource() *Resource { return v.resource }

// Request says what a verb is about.
type Request struct {
	Version     *Version
	Namespace   string
	Name        string
	Subresource string
	// collective requests are parts of the deletion of a collection.
	collective bool
}

// Resource is the request's resource.
func (r *Request) Resource() *Resource { return r.Version.resource }

func (r *Request) key() string { return r.Resource().Collection.Key(r.Namespace, r.Name) }

// qualified is the resource as error messages name it.
func (r *Request) qualified() schema.GroupResource {
	return schema.GroupResource{Group: r.Version.Group, Resource: r.Resource().Names.Resource}
}

// Authorize answers whether the requester in ctx may do what a says; if not
// the error is upstream's Forbidden.
func (s *Server) Authorize(ctx context.Context, a *authz.Attributes) error {
	a.User = identity.FromContext(ctx)
	if a.User == nil {
		return apierrors.NewInternalError(fmt.Errorf("no identity in the request's context"))
	}
	d, reason, err := s.Decide(ctx, a)
	if d == authz.Allow {
		return nil
	}
	if err != nil {
		s.log.Warn("authorization could not be decided in full", "error", err)
	}
	return authz.Forbidden(a, reason)
}

// Decide asks the authorizer.
func (s *Server) Decide(ctx context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	if s.authorizer == nil {
		return authz.Allow, "", nil
	}
	return s.authorizer.Authorize(ctx, a)
}
