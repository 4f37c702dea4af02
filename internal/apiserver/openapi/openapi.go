// Package openapi publishes the API's description (/openapi/v2, /openapi/v3)
// of whatever resources are served. Schemas are read off the Go types and the
// documentation that they carry; nothing is made before somebody asks for it,
// and only what changed is made again.
package openapi

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

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
	v3         *handler3.OpenAPIService
	mux3       http.Handler

	mu         sync.Mutex
	generation int64
	revision   int64 // of the extensions
	v2         http.Handler
	// documents are the versions that each document of v3 describes.
	documents map[schema.GroupVersion][]*verbs.Version
}

// New returns a handler that describes what source and the extensions, which
// may be nil, serve.
func New(source Source, extensions *aggregate.Aggregator) *Handler {
	m := newMux()
	h := &Handler{source: source, extensions: extensions, v3: handler3.NewOpenAPIService(), mux3: m, documents: map[schema.GroupVersion][]*verbs.Version{}}
	// The error is for a registration that mux cannot do; ours does it all.
	_ = h.v3.RegisterOpenAPIV3VersionedService("/openapi/v3", m)
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v2 := h.current()
	if strings.HasPrefix(r.URL.Path, "/openapi/v2") {
		v2.ServeHTTP(w, r)
		return
	}
	h.mux3.ServeHTTP(w, r)
}

// current brings the documents up to the present generation of resources and
// returns the handler of v2. Documents in which nothing changed stay.
func (h *Handler) current() (v2 http.Handler) {
	generation, _ := h.source.Generation()
	revision, extensions := h.extensions.Extensions()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.v2 != nil && h.generation == generation && h.revision == revision {
		return h.v2
	}
	remote := map[schema.GroupVersion]*aggregate.Extension{}
	for _, e := range extensions {
		remote[e.GroupVersion] = e
	}
	byVersion := map[schema.GroupVersion][]*verbs.Version{}
	var all []*verbs.Version
	for _, r := range h.source.Resources() {
		for _, v := range r.Versions {
			if remote[v.GroupVersion()] != nil {
				continue
			}
			byVersion[v.GroupVersion()] = append(byVersion[v.GroupVersion()], v)
			all = append(all, v)
		}
	}
	for gv := range h.documents {
		if byVersion[gv] == nil && (remote[gv] == nil || h.revision != revision) {
			h.v3.DeleteGroupVersion(pathOf(gv))
			delete(h.documents, gv)
		}
	}
	for gv, versions := range byVersion {
		slices.SortFunc(versions, byKind)
		if slices.Equal(h.documents[gv], versions) {
			continue
		}
		h.documents[gv] = versions
		// What comes out is only made anew when the tag is another.
		tag := strconv.FormatInt(generation, 10)
		h.v3.UpdateGroupVersionLazy(pathOf(gv), cached.Once(cached.Func(func() (*spec3.OpenAPI, string, error) {
			return withAlternatives(openapiconv.ConvertV2ToV3(describe(versions, false))), tag, nil
		})))
	}
	for gv, e := range remote {
		if _, have := h.documents[gv]; have {
			continue
		}
		h.documents[gv] = nil
		tag := fmt.Sprintf("%d of another server", revision)
		h.v3.UpdateGroupVersionLazy(pathOf(gv), cached.Once(cached.Func(func() (*spec3.OpenAPI, string, error) {
			return foreignV3(e), tag, nil
		})))
	}
	m := newMux()
	handler.NewOpenAPIServiceLazy(cached.Once(cached.Func(func() (*spec.Swagger, string, error) {
		return withForeign(describe(all, true), extensions)
	}))).RegisterOpenAPIVersionedService("/openapi/v2", m)
	h.v2, h.generation, h.revision = m, generation, revision
	return m
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

func newMux() mux { return mux{http.NewServeMux()} }

func (m mux) Handle(path string, h http.Handler) { m.ServeMux.Handle(path, h) }

func (m mux) HandlePrefix(path string, h http.Handler) { m.ServeMux.Handle(path, h) }
