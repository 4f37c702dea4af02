// Package openapi publishes the API's description (/openapi/v2, /openapi/v3)
// of whatever resources are served. Schemas are read off the Go types and the
// documentation that they carry; nothing is made before somebody asks for it,
// and only what changed is made again.
package openapi

import (
	"net/http"
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

	mu         sync.Mutex
	generation int64
	v2, v3     http.Handler
}

// New returns a handler that describes what source serves.
func New(source Source) *Handler { return &Handler{source: source} }

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v2, v3 := h.current()
	if strings.HasPrefix(r.URL.Path, "/openapi/v2") {
		v2.ServeHTTP(w, r)
		return
	}
	v3.ServeHTTP(w, r)
}

// current returns the handlers for the present generation of resources.
func (h *Handler) current() (v2, v3 http.Handler) {
	generation, _ := h.source.Generation()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.v2 != nil && h.generation == generation {
		return h.v2, h.v3
	}
	byVersion := map[schema.GroupVersion][]*verbs.Version{}
	var all []*verbs.Version
	for _, r := range h.source.Resources() {
		for _, v := range r.Versions {
			byVersion[v.GroupVersion()] = append(byVersion[v.GroupVersion()], v)
			all = append(all, v)
		}
	}
	mux2, mux3 := newMux(), newMux()
	whole := cached.Once(cached.Func(func() (*spec.Swagger, string, error) {
		return describe(all), "", nil
	}))
	handler.NewOpenAPIServiceLazy(whole).RegisterOpenAPIVersionedService("/openapi/v2", mux2)
	service := handler3.NewOpenAPIService()
	for gv, versions := range byVersion {
		service.UpdateGroupVersionLazy(pathOf(gv), cached.Once(cached.Func(func() (*spec3.OpenAPI, string, error) {
			return withAlternatives(openapiconv.ConvertV2ToV3(describe(versions))), "", nil
		})))
	}
	// The error is for a registration that mux cannot do; ours does it all.
	_ = service.RegisterOpenAPIV3VersionedService("/openapi/v3", mux3)
	h.v2, h.v3, h.generation = mux2, mux3, generation
	return h.v2, h.v3
}

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
