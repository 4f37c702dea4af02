package openapi

import (
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/internal/apis"
)

// definitions collects the schemas of Go types, by their published names.
type definitions struct {
	schemas spec.Definitions
	// kinds are the API kinds that a definition stands for.
	kinds map[string][]any
}

type named interface{ OpenAPIModelName() string }

type documented interface{ SwaggerDoc() map[string]string }

type custom interface {
	OpenAPISchemaType() []string
	OpenAPISchemaFormat() string
}

// ref returns a reference to t's schema, adding it and all it refers to.
func (d *definitions) ref(t reflect.Type) spec.Schema {
	name := nameOf(t)
	if _, known := d.schemas[name]; !known {
		// Types refer to themselves: the name must be taken first.
		d.schemas[name] = spec.Schema{}
		d.schemas[name] = d.build(t)
	}
	return *spec.RefSchema("#/definitions/" + name)
}

// Definitions returns the schemas of types and of all that they refer to, by
// their published names.
func Definitions(types ...reflect.Type) spec.Definitions {
	d := &definitions{schemas: spec.Definitions{}, kinds: map[string][]any{}}
	for _, t := range types {
		d.ref(t)
	}
	return d.schemas
}

// Schemas returns the schemas of all that a resource's objects are made of.
func Schemas(d *apis.Resource) map[string]*spec.Schema {
	found := &definitions{schemas: spec.Definitions{}, kinds: map[string][]any{}}
	objects := map[string]schema.GroupVersionKind{}
	for _, v := range append([]apis.Version{d.Hub}, d.Other...) {
		t := reflect.TypeOf(v.New()).Elem()
		found.ref(t)
		objects[nameOf(t)] = v.GVK()
	}
	out := make(map[string]*spec.Schema, len(found.schemas))
	for name, s := range found.schemas {
		if gvk, ok := objects[name]; ok {
			s.AddExtension("x-kubernetes-group-version-kind", []any{KindOf(gvk)})
		}
		out[name] = &s
	}
	return out
}

// ObjectMeta is the published name of the metadata of objects.
const ObjectMeta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

// ModelName is the published name of a kind that has no Go type: the group's
// parts in reverse, the version and the kind.
func ModelName(gvk schema.GroupVersionKind) string {
	parts := strings.Split(gvk.Group, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".") + "." + gvk.Version + "." + gvk.Kind
}

// nameOf is the type's published name.
func nameOf(t reflect.Type) string {
	if n, ok := reflect.Zero(t).Interface().(named); ok {
		return n.OpenAPIModelName()
	}
	if n, ok := reflect.New(t).Interface().(named); ok {
		return n.OpenAPIModelName()
	}
	// k8s.io/api/core/v1.Pod is io.k8s.api.core.v1.Pod.
	path, rest, _ := strings.Cut(t.PkgPath(), "/")
	parts := strings.Split(path, ".")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, ".") + "." + strings.ReplaceAll(rest, "/", ".") + "." + t.Name()
}

func docsOf(t reflect.Type) map[string]string {
	if d, ok := reflect.Zero(t).Interface().(documented); ok {
		return d.SwaggerDoc()
	}
	return nil
}

// anyObjects are types whose content is free.
var anyObjects = map[string]bool{"FieldsV1": true, "RawExtension": true, "Unknown": true}

func (d *definitions) build(t reflect.Type) spec.Schema {
	docs := docsOf(t)
	s := spec.Schema{SchemaProps: spec.SchemaProps{Description: docs[""]}}
	if c, ok := reflect.Zero(t).Interface().(custom); ok {
		s.Type, s.Format = c.OpenAPISchemaType(), c.OpenAPISchemaFormat()
		if t.Name() == "IntOrString" {
			s.Format = "int-or-string"
		}
		return s
	}
	s.Type = spec.StringOrArray{"object"}
	if anyObjects[t.Name()] {
		return s
	}
	if atomicTypes[nameOf(t)] {
		s.AddExtension("x-kubernetes-map-type", "atomic")
	}
	if t.Kind() == reflect.Struct {
		s.Properties = map[string]spec.Schema{}
		d.fields(t, docs, &s)
	} else {
		inline := d.schema(t, "")
		inline.Description = s.Description
		return inline
	}
	return s
}

// atomicTypes are the structs that change as a whole, of which only comments
// tell so.
var atomicTypes = map[string]bool{
	"io.k8s.api.admissionregistration.v1.MatchResources":          true,
	"io.k8s.api.admissionregistration.v1.NamedRuleWithOperations": true,
	"io.k8s.api.admissionregistration.v1.ParamKind":               true,
	"io.k8s.api.admissionregistration.v1.ParamRef":                true,
	"io.k8s.api.admissionregistration.v1.Variable":                true,
	"io.k8s.api.autoscaling.v1.CrossVersionObjectReference":       true,
	"io.k8s.api.core.v1.ConfigMapKeySelector":                     true,
	"io.k8s.api.core.v1.EndpointAddress":                          true,
	"io.k8s.api.core.v1.EndpointPort":                             true,
	"io.k8s.api.core.v1.FileKeySelector":                          true,
	"io.k8s.api.core.v1.LocalObjectReference":                     true,
	"io.k8s.api.core.v1.NodeSelector":                             true,
	"io.k8s.api.core.v1.NodeSelectorTerm":                         true,
	"io.k8s.api.core.v1.ObjectFieldSelector":                      true,
	"io.k8s.api.core.v1.ObjectReference":                          true,
	"io.k8s.api.core.v1.ResourceFieldSelector":                    true,
	"io.k8s.api.core.v1.ScopeSelector":                            true,
	"io.k8s.api.core.v1.SecretKeySelector":                        true,
	"io.k8s.api.core.v1.SecretReference":                          true,
	"io.k8s.api.core.v1.TopologySelectorTerm":                     true,
	"io.k8s.api.core.v1.TypedLocalObjectReference":                true,
	"io.k8s.api.discovery.v1.EndpointPort":                        true,
	"io.k8s.api.networking.v1.ServiceBackendPort":                 true,
	"io.k8s.api.rbac.v1.RoleRef":                                  true,
	"io.k8s.api.rbac.v1.Subject":                                  true,
	"io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector":          true,
	"io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference":         true,
}

// listKeys are the keys of lists of which only comments tell that they are sets.
var listKeys = map[string]string{"CustomResourceDefinitionStatus.conditions": "type"}

// fields adds t's fields to s; those of inlined structs become s's own.
func (d *definitions) fields(t reflect.Type, docs map[string]string, s *spec.Schema) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == "-" || !f.IsExported() {
			continue
		}
		if tag == "" {
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			if (f.Anonymous || strings.Contains(options, "inline")) && inner.Kind() == reflect.Struct {
				d.fields(inner, docsOf(inner), s)
			}
			continue
		}
		p := d.schema(f.Type, docs[tag])
		if strategy := f.Tag.Get("patchStrategy"); strategy != "" {
			p.AddExtension("x-kubernetes-patch-strategy", strategy)
			if strategy == "merge" && f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.String {
				p.AddExtension("x-kubernetes-list-type", "set")
			}
		}
		key := f.Tag.Get("patchMergeKey")
		if key != "" {
			p.AddExtension("x-kubernetes-patch-merge-key", key)
		} else {
			key = listKeys[t.Name()+"."+tag]
		}
		if key != "" && f.Type.Kind() == reflect.Slice {
			p.AddExtension("x-kubernetes-list-type", "map")
			p.AddExtension("x-kubernetes-list-map-keys", []any{key})
		}
		s.Properties[tag] = p
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") && f.Type.Kind() != reflect.Pointer && tag != "status" && tag != "metadata" {
			s.Required = append(s.Required, tag)
		}
	}
}

// schema describes a field of type t.
func (d *definitions) schema(t reflect.Type, doc string) spec.Schema {
	s := spec.Schema{SchemaProps: spec.SchemaProps{Description: doc}}
	scalar := func(kind, format string) spec.Schema {
		s.Type, s.Format = spec.StringOrArray{kind}, format
		return s
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem(), doc)
	case reflect.String:
		return scalar("string", "")
	case reflect.Bool:
		return scalar("boolean", "")
	case reflect.Int32, reflect.Uint32, reflect.Int16, reflect.Uint16, reflect.Int8, reflect.Uint8:
		return scalar("integer", "int32")
	case reflect.Int64, reflect.Int, reflect.Uint64, reflect.Uint:
		return scalar("integer", "int64")
	case reflect.Float64, reflect.Float32:
		return scalar("number", "double")
	case reflect.Interface:
		return scalar("object", "")
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return scalar("string", "byte")
		}
		item := d.schema(t.Elem(), "")
		s.Type, s.Items = spec.StringOrArray{"array"}, &spec.SchemaOrArray{Schema: &item}
		return s
	case reflect.Map:
		value := d.schema(t.Elem(), "")
		s.Type, s.AdditionalProperties = spec.StringOrArray{"object"}, &spec.SchemaOrBool{Allows: true, Schema: &value}
		return s
	}
	ref := d.ref(t)
	ref.Description = doc
	return ref
}

// alternatives are the types whose values may be of several kinds, which only
// version 3 can say.
var alternatives = map[string][]string{
	"io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"integer", "string"},
	"io.k8s.apimachinery.pkg.api.resource.Quantity":   {"string", "number"},
}

// withAlternatives completes doc, which was converted from version 2.
func withAlternatives(doc *spec3.OpenAPI) *spec3.OpenAPI {
	for name, kinds := range alternatives {
		s := doc.Components.Schemas[name]
		if s == nil {
			continue
		}
		s.Type = nil
		for _, kind := range kinds {
			s.OneOf = append(s.OneOf, spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{kind}}})
		}
	}
	return doc
}
