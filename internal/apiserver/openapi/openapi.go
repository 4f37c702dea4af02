// Package openapi publishes the API's description (/openapi/v2, /openapi/v3)
// of whatever resources are served. Schemas are read off the Go types and the
// documentation that they carry; nothing is made before somebody asks for it,
// and only what changed is made again.
package openapi

import (
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
	v3     *handler3.OpenAPIService
	mux3   http.Handler

	mu         sync.Mutex
	generation int64
	v2         http.Handler
	// documents are the versions that each document of v3 describes.
	documents map[schema.GroupVersion][]*verbs.Version
}

// New returns a handler that describes what source serves.
func New(source Source) *Handler {
	m := newMux()
	h := &Handler{source: source, v3: handler3.NewOpenAPIService(), mux3: m, documents: map[schema.GroupVersion][]*verbs.Version{}}
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
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.v2 != nil && h.generation == generation {
		return h.v2
	}
	byVersion := map[schema.GroupVersion][]*verbs.Version{}
	var all []*verbs.Version
	for _, r := range h.source.Resources() {
		for _, v := range r.Versions {
			byVersion[v.GroupVersion()] = append(byVersion[v.GroupVersion()], v)
			all = append(all, v)
		}
	}
	for gv := range h.documents {
		if byVersion[gv] == nil {
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
	m := newMux()
	handler.NewOpenAPIServiceLazy(cached.Once(cached.Func(func() (*spec.Swagger, string, error) {
		return describe(all, true), "", nil
	}))).RegisterOpenAPIVersionedService("/openapi/v2", m)
	h.v2, h.generation = m, generation
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
