package inprocess

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"skiff/internal/apiserver/verbs"
)

// mapper tells kinds and resources apart for exactly what is served now, by
// this server or another; it is remade when that changes.
type mapper struct {
	server  *verbs.Server
	foreign Foreign

	mu         sync.Mutex
	generation int64
	revision   int64 // of what is foreign
	current    meta.RESTMapper
}

var _ meta.RESTMapper = (*mapper)(nil)

func (m *mapper) get() meta.RESTMapper {
	generation, _ := m.server.Generation()
	revision, foreign := m.foreign.Resources()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current != nil && m.generation == generation && m.revision == revision {
		return m.current
	}
	served := m.server.Resources()
	dm := meta.NewDefaultRESTMapper(preferred(served, foreign))
	for _, r := range served {
		for _, v := range r.Versions {
			if gv := v.GroupVersion(); !m.foreign.Serves(gv) {
				dm.AddSpecific(v.GVK(), gv.WithResource(r.Names.Resource), gv.WithResource(r.Singular), scopeOf(r.Namespaced))
			}
		}
	}
	for _, list := range foreign {
		gv := versionOf(list)
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") {
				singular := cmp.Or(r.SingularName, strings.ToLower(r.Kind))
				dm.AddSpecific(gv.WithKind(r.Kind), gv.WithResource(r.Name), gv.WithResource(singular), scopeOf(r.Namespaced))
			}
		}
	}
	m.current, m.generation, m.revision = dm, generation, revision
	return dm
}

func scopeOf(namespaced bool) meta.RESTScope {
	if namespaced {
		return meta.RESTScopeNamespace
	}
	return meta.RESTScopeRoot
}

// versionOf is the zero version for lists that do not name theirs.
func versionOf(list *metav1.APIResourceList) schema.GroupVersion {
	gv, err := schema.ParseGroupVersion(list.GroupVersion)
	if err != nil {
		return schema.GroupVersion{}
	}
	return gv
}

// preferred returns all group versions, the newest and most stable of each
// group first: the one to use when none is named.
func preferred(served []*verbs.Resource, foreign []*metav1.APIResourceList) []schema.GroupVersion {
	var all []schema.GroupVersion
	for _, r := range served {
		for _, v := range r.Versions {
			all = append(all, v.GroupVersion())
		}
	}
	for _, list := range foreign {
		all = append(all, versionOf(list))
	}
	slices.SortFunc(all, func(a, b schema.GroupVersion) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), version.CompareKubeAwareVersionStrings(b.Version, a.Version))
	})
	return slices.Compact(all)
}

func (m *mapper) KindFor(r schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return m.get().KindFor(r)
}

func (m *mapper) KindsFor(r schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	return m.get().KindsFor(r)
}

func (m *mapper) ResourceFor(r schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return m.get().ResourceFor(r)
}

func (m *mapper) ResourcesFor(r schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	return m.get().ResourcesFor(r)
}

func (m *mapper) RESTMapping(gk schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	mapping, err := m.get().RESTMapping(gk, versions...)
	if meta.IsNoMatchError(err) {
		// The library speaks of a resource where a kind was asked for.
		return nil, &meta.NoKindMatchError{GroupKind: gk, SearchedVersions: versions}
	}
	return mapping, err
}

func (m *mapper) RESTMappings(gk schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	return m.get().RESTMappings(gk, versions...)
}

func (m *mapper) ResourceSingularizer(resource string) (string, error) {
	return m.get().ResourceSingularizer(resource)
}
