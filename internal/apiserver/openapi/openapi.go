// Package openapi publishes the API's description (/openapi/v2, /openapi/v3)
// of whatever resources are served. Schemas are read off the Go types and the
// documentation that they carry; nothing is made before somebody asks for it,
// and only what changed is made again.
package openapi

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/utils/clock"

	"skiff/internal/apiserver/aggregate"
	"skiff/internal/apiserver/verbs"
)

// Source is where the served resources come from.
type Source interface {
	Resources() []*verbs.Resource
	// Generation identifies the present set of resources.
	Generation() (int64, <-chan struct{})
}

// Handler answers below /openapi/.
type Handler struct {
	source Source
	// extensions are the other servers whose descriptions are part of ours.
	extensions *aggregate.Aggregator
	clock      clock.PassiveClock

	mu       sync.Mutex
	prepared *prepared
}

// prepared is what is known of one generation of resources.
type prepared struct {
	generation int64
	revision   int64 // of the extensions
	made       time.Time
	v2         http.Handler
	documents  map[string]*document // of v3, by path
}

// New returns a handler that describes what source and the extensions, which
// may be nil, serve.
func New(source Source, extensions *aggregate.Aggregator, clk clock.PassiveClock) *Handler {
	return &Handler{source: source, extensions: extensions, clock: clk, prepared: &prepared{generation: -1}}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := h.current()
	if strings.HasPrefix(r.URL.Path, "/openapi/v2") {
		p.v2.ServeHTTP(w, r)
		return
	}
	serveV3(w, r, p.documents, p.made)
}

// current brings the documents up to the present generation of resources.
// Documents in which nothing changed stay.
func (h *Handler) current() *prepared {
	generation, _ := h.source.Generation()
	revision, extensions := h.extensions.Extensions()
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.prepared
	if old.generation == generation && old.revision == revision {
		return old
	}
	now := h.clock.Now()
	p := &prepared{generation: generation, revision: revision, made: now, documents: map[string]*document{}}
	for _, e := range extensions {
		path := pathOf(e.GroupVersion)
		if p.documents[path] = old.documents[path]; old.documents[path] == nil || old.revision != revision {
			p.documents[path] = foreignDocument(e, now)
		}
	}
	byVersion := map[string][]*verbs.Version{}
	var all []*verbs.Version
	for _, r := range h.source.Resources() {
		for _, v := range r.Versions {
			if path := pathOf(v.GroupVersion()); p.documents[path] == nil {
				byVersion[path] = append(byVersion[path], v)
				all = append(all, v)
			}
		}
	}
	for path, versions := range byVersion {
		slices.SortFunc(versions, byKind)
		if have := old.documents[path]; have != nil && slices.Equal(have.versions, versions) {
			p.documents[path] = have
		} else {
			p.documents[path] = documentOf(versions, now)
		}
	}
	m := mux{http.NewServeMux()}
	handler.NewOpenAPIServiceLazy(cached.Once(cached.Func(func() (*spec.Swagger, string, error) {
		return withForeign(describe(all, true), extensions)
	}))).RegisterOpenAPIVersionedService("/openapi/v2", m)
	p.v2 = m
	h.prepared = p
	return p
}

func byKind(a, b *verbs.Version) int { return strings.Compare(a.GVK().String(), b.GVK().String()) }

// pathOf is a group version's path, which is also its name in /openapi/v3.
func pathOf(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.String()
}

// mux implements kube-openapi's PathHandlerByGroupVersion.
type mux struct{ *http.ServeMux }

func (m mux) Handle(path string, h http.Handler) { m.ServeMux.Handle(path, h) }

func (m mux) HandlePrefix(path string, h http.Handler) { m.ServeMux.Handle(path, h) }
