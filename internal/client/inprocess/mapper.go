package inprocess

import (
	"cmp"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"skiff/internal/apiserver/verbs"
)

// mapper tells kinds and resources apart for exactly what the server serves
// now; it is remade when that changes.
type mapper struct {
	server *verbs.Server

	mu         sync.Mutex
	generation int64
	current    meta.RESTMapper
}

var _ meta.RESTMapper = (*mapper)(nil)

func (m *mapper) get() meta.RESTMapper {
	generation, _ := m.server.Generation()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current != nil && m.generation == generation {
		return m.current
	}
	served := m.server.Resources()
	dm := meta.NewDefaultRESTMapper(preferred(served))
	for _, r := range served {
		var scope meta.RESTScope = meta.RESTScopeRoot
		if r.Namespaced {
			scope = meta.RESTScopeNamespace
		}
		for _, v := range r.Versions {
			gv := v.GroupVersion()
			dm.AddSpecific(v.GVK(), gv.WithResource(r.Names.Resource), gv.WithResource(r.Singular), scope)
		}
	}
	m.current, m.generation = dm, generation
	return dm
}

// preferred returns all group versions, the newest and most stable of each
// group first: the one to use when none is named.
func preferred(served []*verbs.Resource) []schema.GroupVersion {
	var all []schema.GroupVersion
	for _, r := range served {
		for _, v := range r.Versions {
			all = append(all, v.GroupVersion())
		}
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
