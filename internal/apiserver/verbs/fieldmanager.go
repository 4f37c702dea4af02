package verbs

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"skiff/internal/apis"
	"skiff/internal/apiserver/fieldset"
)

// prepareFieldManagers sets up who owns which field (KEP-555) for each path of
// v that can be applied to.
func (s *Server) prepareFieldManagers(v *Version) {
	d := v.resource.Resource
	paths := []string{""}
	if v.Has("status") {
		paths = append(paths, "status")
	}
	for _, sub := range d.Subresources {
		if sub.Prepare != nil {
			paths = append(paths, sub.Name)
		}
	}
	v.newFields = sync.OnceValue(func() *fieldset.Writer { return s.fieldsOfNew(v) })
	v.managers = make(map[string]func() (*managedfields.FieldManager, error), len(paths))
	for _, sub := range paths {
		v.managers[sub] = sync.OnceValues(func() (*managedfields.FieldManager, error) {
			conv := converter{v.resource}
			if d.Custom != nil {
				types, err := d.Custom.Types()
				if err != nil {
					return nil, err
				}
				return managedfields.NewDefaultCRDFieldManager(types, conv, conv, conv,
					v.GVK(), v.GroupVersion(), sub, resetFields(v, sub))
			}
			return managedfields.NewDefaultFieldManager(s.schemaOf(d), conv, conv, conv,
				v.GVK(), d.Hub.GroupVersion(), sub, resetFields(v, sub))
		})
	}
}

// fieldsOfNew returns what writes the fields of new objects of the version, or
// nil if only a comparison with nothing tells them: for types without schema,
// and for versions other than that in which the server works.
func (s *Server) fieldsOfNew(v *Version) *fieldset.Writer {
	d := v.resource.Resource
	if !v.IsHub || d.Custom != nil {
		return nil
	}
	empty := v.Version.New()
	empty.GetObjectKind().SetGroupVersionKind(v.GVK())
	typed, err := s.schemaOf(d).ObjectToTyped(empty)
	if err != nil {
		return nil
	}
	reset := slices.Clone(d.Reset[""])
	if v.Has("status") {
		reset = append(reset, "status")
	}
	w, err := fieldset.Compile(empty, typed, reset...)
	if err != nil {
		return nil
	}
	return w
}

// schemaOf returns what tells how the parts of the resource are merged. The
// schemas of types that client-go has none of are made of the types. Without
// those, types are taken as they look: objects field by field, lists as a whole.
func (s *Server) schemaOf(d *apis.Resource) managedfields.TypeConverter {
	if _, custom := d.Hub.New().(*unstructured.Unstructured); custom {
		return managedfields.NewDeducedTypeConverter()
	}
	if !typesWithoutSchema[d.Group] {
		return s.typeConverter()
	}
	if s.schemas != nil {
		if types, err := managedfields.NewTypeConverter(s.schemas(d), false); err == nil {
			return types
		}
	}
	return managedfields.NewDeducedTypeConverter()
}

// typesWithoutSchema are the groups whose types live outside k8s.io/api, or are
// never stored.
var typesWithoutSchema = map[string]bool{
	"apiextensions.k8s.io": true, "apiregistration.k8s.io": true, "authentication.k8s.io": true, "authorization.k8s.io": true,
}

// fieldManager returns the field manager of a path below v, or nil for
// subresources with a type of their own.
func (v *Version) fieldManager(subresource string) (*managedfields.FieldManager, error) {
	f := v.managers[subresource]
	if f == nil {
		return nil, nil
	}
	return f()
}

// resetFields are the fields that a write to the path does not touch, so that
// its author does not come to own them.
func resetFields(v *Version, subresource string) map[fieldpath.APIVersion]fieldpath.Filter {
	d := v.resource.Resource
	set := fieldpath.NewSet()
	switch {
	case subresource == "" && v.Has("status"):
		set.Insert(fieldpath.MakePathOrDie("status"))
	case subresource == "status" && d.Custom != nil:
		set.Insert(fieldpath.MakePathOrDie("metadata"))
		set.Insert(fieldpath.MakePathOrDie("spec"))
	case subresource == "status":
		set.Insert(fieldpath.MakePathOrDie("spec"))
	}
	for _, path := range d.Reset[subresource] {
		var at fieldpath.Path
		for name := range strings.SplitSeq(path, ".") {
			at = append(at, fieldpath.PathElement{FieldName: &name})
		}
		set.Insert(at)
	}
	if set.Empty() {
		return nil
	}
	out := map[fieldpath.APIVersion]fieldpath.Filter{}
	out[fieldpath.APIVersion(d.Hub.GroupVersion().String())] = fieldpath.NewExcludeSetFilter(set)
	for i := range d.Other {
		out[fieldpath.APIVersion(d.Other[i].GroupVersion().String())] = fieldpath.NewExcludeSetFilter(set)
	}
	return out
}

// converter gives the field manager the versions of one resource: it is the
// runtime.ObjectConvertor, ObjectCreater and ObjectDefaulter that one needs.
type converter struct{ resource *Resource }

func (c converter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	for _, v := range c.resource.Versions {
		if v.GVK() == gvk {
			return v.Version.New(), nil
		}
	}
	return nil, fmt.Errorf("%s is not a version of %s", gvk, c.resource.GroupResource())
}

func (c converter) Default(obj runtime.Object) {
	o, ok := obj.(apis.Object)
	if !ok {
		return
	}
	v := c.versionOf(o)
	if v.Version.Default != nil {
		v.Version.Default(o)
	}
	// The hub's defaults are for the hub's type; the other versions get them
	// when they are converted.
	if v.IsHub && c.resource.Default != nil {
		c.resource.Default(o)
	}
}

func (c converter) Convert(in, out, _ any) error {
	return fmt.Errorf("conversion of %T to %T is not supported", in, out)
}

func (c converter) ConvertFieldLabel(gvk schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

func (c converter) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	obj := in.(apis.Object)
	gvks := make([]schema.GroupVersionKind, 0, len(c.resource.Versions))
	for _, v := range c.resource.Versions {
		gvks = append(gvks, v.GVK())
	}
	gvk, ok := target.KindForGroupVersionKinds(gvks)
	if !ok {
		return nil, runtime.NewNotRegisteredErrForTarget("verbs", nil, target)
	}
	from := c.versionOf(obj)
	obj, err := c.typed(obj, from)
	if err != nil {
		return nil, err
	}
	if from.GVK() == gvk {
		if obj.GetObjectKind().GroupVersionKind() != gvk {
			obj = obj.DeepCopyObject().(apis.Object)
			obj.GetObjectKind().SetGroupVersionKind(gvk)
		}
		return obj, nil
	}
	if c.resource.Custom != nil {
		out, err := c.resource.convert(context.Background(), gvk.Version, obj)
		if err != nil {
			return nil, err
		}
		return out[0], nil
	}
	obj = obj.DeepCopyObject().(apis.Object)
	if !from.IsHub && from.Version.ToHub != nil {
		if obj, err = from.Version.ToHub(obj); err != nil {
			return nil, err
		}
	}
	for _, v := range c.resource.Versions {
		if v.GVK() != gvk {
			continue
		}
		out, err := v.FromHub(obj)
		if err != nil {
			return nil, err
		}
		out.GetObjectKind().SetGroupVersionKind(gvk)
		return out, nil
	}
	return obj, nil
}

// typed gives what the field manager merged, which has no Go type, that of its
// version.
func (c converter) typed(obj apis.Object, v *Version) (apis.Object, error) {
	u, merged := obj.(*unstructured.Unstructured)
	out := v.Version.New()
	if _, custom := out.(*unstructured.Unstructured); !merged || custom {
		return obj, nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
		return nil, fmt.Errorf("unable to convert unstructured object to %v: %w", v.GVK(), err)
	}
	return out, nil
}

// versionOf tells obj's version by its type meta or, where it has none, by its
// Go type; the hub where neither tells.
func (c converter) versionOf(obj apis.Object) *Version {
	gvk := obj.GetObjectKind().GroupVersionKind()
	for _, v := range c.resource.Versions {
		if v.GVK() == gvk {
			return v
		}
	}
	for _, v := range c.resource.Versions {
		if c.resource.Custom == nil && reflect.TypeOf(v.Version.New()) == reflect.TypeOf(obj) {
			return v
		}
	}
	return c.resource.Versions[0]
}

// defaultManager is the field manager's name when the request says none: the
// first part of the user agent, as upstream does.
func defaultManager(name, userAgent string) string {
	if name != "" {
		return name
	}
	name, _, _ = strings.Cut(userAgent, "/")
	const limit = 128
	if len(name) > limit {
		name = name[:limit]
		for !utf8.ValidString(name) {
			name = name[:len(name)-1]
		}
	}
	if name == "" {
		return "unknown"
	}
	return name
}

// TypeConverter returns what knows how the fields of a kind are merged. The
// kind may be that of a subresource.
func (s *Server) TypeConverter(gvk schema.GroupVersionKind) (managedfields.TypeConverter, error) {
	r, _ := s.LookupKind(gvk)
	switch {
	case r == nil && !s.scheme.Recognizes(gvk):
		return nil, fmt.Errorf("%s is not served", gvk)
	case r == nil:
		return s.typeConverter(), nil
	case r.Custom != nil:
		return r.Custom.Types()
	}
	return s.schemaOf(r.Resource), nil
}
