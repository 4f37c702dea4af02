package crd

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-openapi/pkg/validation/spec"
	kjson "sigs.k8s.io/json"

	"skiff/internal/apis"
	"skiff/internal/store/cache"
)

// definition is a CustomResourceDefinition that is being served.
type definition struct {
	// crd is what is served, without the schemas: they are most of it, and
	// there for the reading when they are needed.
	crd      *apiextensionsv1.CustomResourceDefinition
	names    *apiextensionsv1.CustomResourceDefinitionNames
	versions map[string]*version
	config   *Config
	// life outlives changes of the definition.
	life *life
}

// life is what a definition has from its creation to its deletion.
type life struct {
	terminating atomic.Bool
	// creating is held, for reading, while an object is being created.
	creating sync.RWMutex
	// entry is the newest state of the definition that the cache had.
	entry atomic.Pointer[cache.Entry]
}

func (l *life) definition() *apiextensionsv1.CustomResourceDefinition {
	return definitionIn(l.entry.Load())
}

// create begins the creation of an object, unless the definition is being
// deleted. done tells its end.
func (l *life) create() (done func(), ok bool) {
	l.creating.RLock()
	if l.terminating.Load() {
		l.creating.RUnlock()
		return nil, false
	}
	return l.creating.RUnlock, true
}

// settle returns when no creation is under way that began before the deletion.
func (l *life) settle() {
	l.creating.Lock()
	defer l.creating.Unlock()
}

// newDefinition serves crd by the names. stored returns what is stored of it,
// nil if that is nothing; objects are decoded under the cache's lock, so it
// must not take that.
func newDefinition(c *Config, crd *apiextensionsv1.CustomResourceDefinition, names *apiextensionsv1.CustomResourceDefinitionNames, l *life, stored func() *apiextensionsv1.CustomResourceDefinition) *definition {
	d := &definition{config: c, crd: withoutSchemas(crd), names: names.DeepCopy(), life: l, versions: make(map[string]*version, len(crd.Spec.Versions))}
	for i := range d.crd.Spec.Versions {
		v := &d.crd.Spec.Versions[i]
		d.versions[v.Name] = newVersion(c, v, crd.Spec.PreserveUnknownFields, func() *apiextensionsv1.CustomResourceDefinitionVersion {
			return versionNamed(stored(), v.Name)
		})
	}
	return d
}

// withoutSchemas is a copy of crd that holds on to none of its schemas.
func withoutSchemas(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinition {
	out := &apiextensionsv1.CustomResourceDefinition{Spec: crd.Spec}
	out.Name, out.UID, out.Generation = crd.Name, crd.UID, crd.Generation
	out.Spec.Versions = slices.Clone(crd.Spec.Versions)
	for i := range out.Spec.Versions {
		out.Spec.Versions[i].Schema = nil
	}
	return out
}

func versionNamed(crd *apiextensionsv1.CustomResourceDefinition, name string) *apiextensionsv1.CustomResourceDefinitionVersion {
	if crd == nil {
		return nil
	}
	for i := range crd.Spec.Versions {
		if crd.Spec.Versions[i].Name == name {
			return &crd.Spec.Versions[i]
		}
	}
	return nil
}

// versionOf tells an object's version by its apiVersion, nil if there is no
// such version.
func (d *definition) versionOf(u *unstructured.Unstructured) *version {
	return d.versions[u.GroupVersionKind().Version]
}

// resource returns the declaration, which is of the same kind as that of a
// built-in resource.
func (d *definition) resource() *apis.Resource {
	r := &apis.Resource{
		Names: apis.Names{
			Group: d.crd.Spec.Group, Resource: d.names.Plural, Singular: d.names.Singular,
			Kind: d.names.Kind, ListKind: d.names.ListKind, ShortNames: d.names.ShortNames, Categories: d.names.Categories,
			Namespaced: d.crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
		},
		Prefix:                 "/registry/" + d.crd.Spec.Group + "/" + d.names.Plural,
		Default:                func(obj apis.Object) { d.fill(obj) },
		PrepareStatusUpdate:    keepMetadata,
		Validate:               d.validate,
		ValidateUpdate:         d.validateUpdate,
		ValidateStatusUpdate:   d.validateStatusUpdate,
		Warnings:               finalizerWarnings,
		Generation:             true,
		RequireResourceVersion: true,
		Custom: &apis.Custom{
			ID:      fmt.Sprintf("%s/%d/%v", d.crd.UID, d.crd.Generation, *d.names),
			Convert: d.convert, Decode: d.decode, Types: sync.OnceValues(d.types),
			Terminating: d.life.terminating.Load, Creating: d.life.create,
		},
	}
	for _, v := range d.versions {
		r.HasStatus = r.HasStatus || v.hasStatus()
		if v.scale() != nil {
			r.Scale = d.scale()
		}
	}
	for i := range d.crd.Spec.Versions {
		v := d.versions[d.crd.Spec.Versions[i].Name]
		switch declared := d.version(v, r); {
		case v.Storage:
			r.Hub = declared
		case v.Served:
			r.Other = append(r.Other, declared)
		}
	}
	return r
}

// version declares one version of r.
func (d *definition) version(v *version, r *apis.Resource) apis.Version {
	gvk := schema.GroupVersionKind{Group: d.crd.Spec.Group, Version: v.Name, Kind: d.names.Kind}
	out := apis.Version{
		Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Unserved: !v.Served,
		New: func() apis.Object {
			u := &unstructured.Unstructured{}
			u.SetGroupVersionKind(gvk)
			return u
		},
		NewList: func() runtime.Object {
			l := &unstructured.UnstructuredList{}
			l.SetGroupVersionKind(gvk.GroupVersion().WithKind(d.names.ListKind))
			return l
		},
		Prune: func(obj apis.Object) ([]string, error) {
			return v.coerce(obj.(*unstructured.Unstructured), coercion{report: true})
		},
		Schema: func(v2 bool) *spec.Schema { return d.published(v, v2) },
		Fields: selectable(v),
	}
	out.Columns, out.Cells = tableOf(v)
	if r.HasStatus && !v.hasStatus() {
		out.Without = append(out.Without, "status")
	}
	if r.Scale != nil && v.scale() == nil {
		out.Without = append(out.Without, "scale")
	}
	if v.Deprecated {
		out.Warning = d.deprecation(v)
	}
	return out
}

func (v *version) hasStatus() bool { return v.Subresources != nil && v.Subresources.Status != nil }

// deprecation is the warning for requests in a deprecated version.
func (d *definition) deprecation(v *version) string {
	if v.DeprecationWarning != nil {
		return *v.DeprecationWarning
	}
	text := fmt.Sprintf("%s/%s %s is deprecated", d.crd.Spec.Group, v.Name, d.names.Kind)
	var better []string
	for _, other := range d.versions {
		if other.Served && !other.Deprecated && apiversion.CompareKubeAwareVersionStrings(v.Name, other.Name) < 0 {
			better = append(better, other.Name)
		}
	}
	if len(better) == 0 {
		return text
	}
	newest := slices.MaxFunc(better, apiversion.CompareKubeAwareVersionStrings)
	return text + fmt.Sprintf("; use %s/%s %s", d.crd.Spec.Group, newest, d.names.Kind)
}

// decode reads a stored object and gives it the defaults of its version.
func (d *definition) decode(value []byte) (apis.Object, error) {
	u := &unstructured.Unstructured{}
	read := kjson.UnmarshalCaseSensitivePreserveInts
	if bytes.HasPrefix(value, []byte("\xd9\xd9\xf7")) {
		// Another API server may have stored it as CBOR.
		read = direct.Unmarshal
	}
	if err := read(value, &u.Object); err != nil {
		return nil, fmt.Errorf("stored %s is not readable: %w", d.names.Kind, err)
	}
	v := d.versionOf(u)
	if u.Object == nil || v == nil {
		return nil, fmt.Errorf("stored %s is in version %q, which its definition does not have", d.names.Kind, u.GetAPIVersion())
	}
	if _, err := v.coerce(u, coercion{stored: true}); err != nil {
		return nil, fmt.Errorf("stored %s is not readable: %w", d.names.Kind, err)
	}
	v.fill(u)
	return u, nil
}

func (d *definition) fill(obj apis.Object) {
	u := obj.(*unstructured.Unstructured)
	if v := d.versionOf(u); v != nil {
		v.fill(u)
	}
}

// keepMetadata leaves of a write to the status nothing else.
func keepMetadata(_ context.Context, obj, old apis.Object) {
	u := obj.(*unstructured.Unstructured)
	managed, revision := u.GetManagedFields(), u.GetResourceVersion()
	meta, ok := old.(*unstructured.Unstructured).Object["metadata"].(map[string]any)
	if !ok {
		return
	}
	u.Object["metadata"] = runtime.DeepCopyJSON(maps.Clone(meta))
	u.SetManagedFields(managed)
	u.SetResourceVersion(revision)
}

// scale reads and writes the fields that the version of each object names.
func (d *definition) scale() *apis.Scale {
	paths := func(obj apis.Object) (*unstructured.Unstructured, *apiextensionsv1.CustomResourceSubresourceScale) {
		u := obj.(*unstructured.Unstructured)
		if v := d.versionOf(u); v != nil && v.scale() != nil {
			return u, v.scale()
		}
		return u, &apiextensionsv1.CustomResourceSubresourceScale{}
	}
	count := func(u *unstructured.Unstructured, path string) (n int32, found bool) {
		long, found, _ := unstructured.NestedInt64(u.Object, fieldsOf(path)...)
		return int32(long), found
	}
	byVersion := map[string][]string{}
	for name, v := range d.versions {
		byVersion[name] = nil
		if s := v.scale(); s != nil {
			byVersion[name] = fieldsOf(s.SpecReplicasPath)
		}
	}
	return &apis.Scale{
		ReplicasPaths: byVersion,
		Replicas: func(obj apis.Object) int32 {
			u, s := paths(obj)
			n, _ := count(u, s.SpecReplicasPath)
			return n
		},
		Unset: func(obj apis.Object) (string, bool) {
			u, s := paths(obj)
			_, found := count(u, s.SpecReplicasPath)
			return s.SpecReplicasPath, !found
		},
		SetReplicas: func(obj apis.Object, n int32) {
			u, s := paths(obj)
			// A path that leads through something else than objects is left
			// alone: such an object is not valid.
			_ = unstructured.SetNestedField(u.Object, int64(n), fieldsOf(s.SpecReplicasPath)...)
		},
		StatusReplicas: func(obj apis.Object) int32 {
			u, s := paths(obj)
			n, _ := count(u, s.StatusReplicasPath)
			return n
		},
		Selector: func(obj apis.Object) string {
			u, s := paths(obj)
			if s.LabelSelectorPath == nil {
				return ""
			}
			selector, _, _ := unstructured.NestedString(u.Object, fieldsOf(*s.LabelSelectorPath)...)
			return selector
		},
	}
}
