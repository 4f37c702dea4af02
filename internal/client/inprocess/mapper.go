package inprocess

import (
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

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
	dm := meta.NewDefaultRESTMapper(nil)
	for _, r := range m.server.Resources() {
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
	return m.get().RESTMapping(gk, versions...)
}

func (m *mapper) RESTMappings(gk schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	return m.get().RESTMappings(gk, versions...)
}

func (m *mapper) ResourceSingularizer(resource string) (string, error) {
	return m.get().ResourceSingularizer(resource)
}
