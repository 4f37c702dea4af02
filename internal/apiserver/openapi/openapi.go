// Package openapi publishes the API's description (/openapi/v2, /openapi/v3)
// of whatever resources are served. Schemas are read off the Go types and the
// documentation that they carry; nothing is made before somebody asks for it,
// and only what changed is made again.
package openapi

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
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
	v2         *whole
	builtin    *part
	parts      map[string]*part     // of v2, by path
	documents  map[string]*document // of v3, by path
	foreign    map[string]*foreign  // by path
}

// New returns a handler that describes what source and the extensions, which
// may be nil, serve.
func New(source Source, extensions *aggregate.Aggregator, clk clock.PassiveClock) *Handler {
	return &Handler{source: source, extensions: extensions, clock: clk, prepared: &prepared{generation: -1, builtin: &part{}}}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v2 := strings.HasPrefix(r.URL.Path, "/openapi/v2")
	p := h.current()
	if h.renew(r.Context(), p, v2) {
		p = h.current()
	}
	if v2 {
		p.v2.ServeHTTP(w, r)
		return
	}
	serveV3(w, r, p.documents, p.made)
}

// renew asks the other servers, all at once, whether their documents are still
// the same. If not, what is prepared of them is out of date.
func (h *Handler) renew(ctx context.Context, p *prepared, v2 bool) (changed bool) {
	var asked sync.WaitGroup
	var some atomic.Bool
	for _, f := range p.foreign {
		asked.Go(func() {
			if f.renew(ctx, v2, h.clock.Now()) {
				some.Store(true)
			}
		})
	}
	asked.Wait()
	if !some.Load() {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.prepared == p {
		outdated := *p
		outdated.generation = -1
		h.prepared = &outdated
	}
	return true
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
	p := &prepared{
		generation: generation, revision: revision, made: now,
		documents: map[string]*document{}, parts: map[string]*part{}, foreign: map[string]*foreign{},
	}
	var others []*foreign
	for _, e := range extensions {
		path := pathOf(e.GroupVersion)
		f := old.foreign[path]
		if f == nil || f.extension != e {
			f = &foreign{extension: e}
		}
		p.foreign[path] = f
		if p.documents[path] = f.current(); p.documents[path] == nil {
			p.documents[path] = newDocument(f.v3Document(), now)
		}
		others = append(others, f)
	}
	byVersion := map[string][]*verbs.Version{}
	var builtin []*verbs.Version
	above := map[string]bool{"api": true, "apis": true, "version": true, "openid/v1/jwks": true, ".well-known/openid-configuration": true}
	for _, r := range h.source.Resources() {
		for v := range r.Served() {
			path := pathOf(v.GroupVersion())
			if p.foreign[path] != nil {
				continue
			}
			byVersion[path] = append(byVersion[path], v)
			if r.Custom == nil {
				builtin = append(builtin, v)
				if v.Group != "" {
					above["apis/"+v.Group] = true
				}
			}
		}
	}
	slices.SortFunc(builtin, byKind)
	if p.builtin = old.builtin; !slices.Equal(builtin, p.builtin.versions) {
		p.builtin = partOf(builtin, slices.Collect(maps.Keys(above)))
	}
	for path := range above {
		if p.documents[path] = old.documents[path]; p.documents[path] == nil {
			p.documents[path] = documentOf(nil, []string{path}, now)
		}
	}
	parts := []*part{p.builtin}
	for _, path := range slices.Sorted(maps.Keys(byVersion)) {
		versions := byVersion[path]
		slices.SortFunc(versions, byKind)
		if have := old.documents[path]; have != nil && slices.Equal(have.versions, versions) {
			p.documents[path] = have
		} else {
			p.documents[path] = documentOf(versions, nil, now)
		}
		custom := slices.DeleteFunc(slices.Clone(versions), func(v *verbs.Version) bool { return v.Resource().Custom == nil })
		if len(custom) == 0 {
			continue
		}
		if p.parts[path] = old.parts[path]; p.parts[path] == nil || !slices.Equal(p.parts[path].versions, custom) {
			p.parts[path] = customPart(custom, p.builtin)
		}
		parts = append(parts, p.parts[path])
	}
	p.v2 = assemble(parts, others, now)
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
