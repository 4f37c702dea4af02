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
	p := &prepared{
		generation: generation, revision: revision, made: h.clock.Now(),
		documents: map[string]*document{}, parts: map[string]*part{}, foreign: map[string]*foreign{},
	}
	others := p.describeForeign(old, extensions)
	served := p.servedOf(h.source.Resources())
	if p.builtin = old.builtin; !slices.Equal(served.builtin, p.builtin.versions) {
		p.builtin = partOf(served.builtin, slices.Collect(maps.Keys(served.roots)))
	}
	for path := range served.roots {
		if p.documents[path] = old.documents[path]; p.documents[path] == nil {
			p.documents[path] = documentOf(nil, []string{path}, p.made)
		}
	}
	custom := p.describeVersions(old, served.byPath)
	p.v2 = assemble(append([]*part{p.builtin}, custom...), others, p.made)
	h.prepared = p
	return p
}

// describeForeign takes over what other servers publish of their versions.
func (p *prepared) describeForeign(old *prepared, extensions []*aggregate.Extension) (all []*foreign) {
	for _, e := range extensions {
		path := pathOf(e.GroupVersion)
		f := old.foreign[path]
		if f == nil || f.extension != e {
			f = &foreign{extension: e}
		}
		p.foreign[path] = f
		if p.documents[path] = f.current(); p.documents[path] == nil {
			p.documents[path] = newDocument(f.v3Document(), p.made)
		}
		all = append(all, f)
	}
	return all
}

// served are the versions that this server describes itself.
type served struct {
	byPath map[string][]*verbs.Version // each sorted
	// builtin are those that are not custom, sorted.
	builtin []*verbs.Version
	// roots are the paths above and beside them that there are documents of.
	roots map[string]bool
}

func (p *prepared) servedOf(resources []*verbs.Resource) *served {
	s := &served{
		byPath: map[string][]*verbs.Version{},
		roots:  map[string]bool{"api": true, "apis": true, "version": true, "openid/v1/jwks": true, ".well-known/openid-configuration": true},
	}
	for _, r := range resources {
		for v := range r.Served() {
			path := pathOf(v.GroupVersion())
			if p.foreign[path] != nil {
				continue
			}
			s.byPath[path] = append(s.byPath[path], v)
			if r.Custom != nil {
				continue
			}
			s.builtin = append(s.builtin, v)
			if v.Group != "" {
				s.roots["apis/"+v.Group] = true
			}
		}
	}
	slices.SortFunc(s.builtin, byKind)
	for _, versions := range s.byPath {
		slices.SortFunc(versions, byKind)
	}
	return s
}

// describeVersions makes the documents of group versions, and returns what
// /openapi/v2 says of custom resources, in the order of the paths.
func (p *prepared) describeVersions(old *prepared, byPath map[string][]*verbs.Version) (custom []*part) {
	for _, path := range slices.Sorted(maps.Keys(byPath)) {
		versions := byPath[path]
		if have := old.documents[path]; have != nil && slices.Equal(have.versions, versions) {
			p.documents[path] = have
		} else {
			p.documents[path] = documentOf(versions, nil, p.made)
		}
		own := slices.DeleteFunc(slices.Clone(versions), func(v *verbs.Version) bool { return v.Resource().Custom == nil })
		if len(own) == 0 {
			continue
		}
		if p.parts[path] = old.parts[path]; p.parts[path] == nil || !slices.Equal(p.parts[path].versions, own) {
			p.parts[path] = customPart(own, p.builtin)
		}
		custom = append(custom, p.parts[path])
	}
	return custom
}

func byKind(a, b *verbs.Version) int { return strings.Compare(a.GVK().String(), b.GVK().String()) }

// pathOf is a group version's path, which is also its name in /openapi/v3.
func pathOf(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.String()
}
