package crd

import (
	"reflect"
	"slices"
	"strings"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/internal/apiserver/openapi"
)

// types describes all versions to server-side apply.
func (d *definition) types() (managedfields.TypeConverter, error) {
	models := map[string]*spec.Schema{}
	for name, s := range openapi.Definitions(reflect.TypeFor[metav1.ObjectMeta]()) {
		models[name] = openapiconv.ConvertSchema(&s)
	}
	for name, v := range d.versions {
		gvk := schema.GroupVersionKind{Group: d.crd.Spec.Group, Version: name, Kind: d.names.Kind}
		models[openapi.ModelName(gvk)] = openapiconv.ConvertSchema(d.published(v, false))
	}
	return managedfields.NewTypeConverter(models, d.crd.Spec.PreserveUnknownFields)
}

// published is a version's schema as clients see it, with the fields that every
// object has. References are those of OpenAPI v2, whose content it has if v2
// is set: that form cannot say everything, and kubectl takes what it says for
// the whole truth.
func (d *definition) published(v *version, v2 bool) *spec.Schema {
	s := v.readStructure()
	out := &spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}}}
	if s != nil && !(v2 && s.XPreserveUnknownFields) {
		s = s.Unfold()
		if v2 {
			simplify(s)
		}
		out = s.ToKubeOpenAPI()
		addObjectFields(out)
		addEmbedded(out, v2)
	}
	gvk := schema.GroupVersionKind{Group: d.crd.Spec.Group, Version: v.Name, Kind: d.names.Kind}
	out.AddExtension(openapi.KindExtension, []any{openapi.KindOf(gvk)})
	if len(v.SelectableFields) > 0 {
		var fields []any
		for _, f := range v.SelectableFields {
			fields = append(fields, map[string]any{"fieldPath": strings.TrimPrefix(f.JSONPath, ".")})
		}
		out.AddExtension("x-kubernetes-selectable-fields", fields)
	}
	return out
}

// simplify takes out of s what OpenAPI v2, or what kubectl makes of it, does
// not know: alternatives, null, and objects with some fields known and others
// not. Defaults are not published there either.
func simplify(s *structural.Structural) {
	(&structural.Visitor{Structural: func(s *structural.Structural) bool {
		if v := s.ValueValidation; v != nil {
			v.AllOf, v.OneOf, v.AnyOf, v.Not = nil, nil, nil, nil
			v.Required = slices.DeleteFunc(v.Required, func(name string) bool { return s.Properties[name].Nullable })
			if a := s.AdditionalProperties; a != nil && a.Structural != nil && a.Structural.Nullable {
				v.Required = nil
			}
		}
		free := s.Nullable || s.XPreserveUnknownFields
		if free {
			s.Items, s.Properties = nil, nil
		}
		if s.Nullable || (s.XPreserveUnknownFields && s.Type == "object") || (s.Items == nil && s.Type == "array") {
			s.Type = ""
		}
		s.Nullable = false
		s.Default.Object = nil
		return true
	}}).Visit(s)
}

// addObjectFields adds what every object has.
func addObjectFields(s *spec.Schema) {
	kind := metav1.TypeMeta{}.SwaggerDoc()
	meta := metav1.PartialObjectMetadata{}.SwaggerDoc()
	s.SetProperty("apiVersion", *spec.StringProperty().WithDescription(kind["apiVersion"]))
	s.SetProperty("kind", *spec.StringProperty().WithDescription(kind["kind"]))
	s.SetProperty("metadata", *spec.RefSchema("#/definitions/" + openapi.ObjectMeta).WithDescription(meta["metadata"]))
}

// addEmbedded adds the same to objects within the object.
func addEmbedded(s *spec.Schema, v2 bool) {
	if s == nil {
		return
	}
	for name, p := range s.Properties {
		addEmbedded(&p, v2)
		s.Properties[name] = p
	}
	if s.Items != nil {
		addEmbedded(s.Items.Schema, v2)
	}
	if s.AdditionalProperties != nil {
		addEmbedded(s.AdditionalProperties.Schema, v2)
	}
	is := func(extension string) bool {
		yes, ok := s.Extensions.GetBool(extension)
		return ok && yes
	}
	if !is("x-kubernetes-embedded-resource") || (v2 && is("x-kubernetes-preserve-unknown-fields")) {
		return
	}
	addObjectFields(s)
	for name, says := range map[string]string{
		"apiVersion": "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
		"kind":       "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
	} {
		s.SetProperty(name, *spec.StringProperty().WithDescription(says))
	}
	for _, name := range []string{"kind", "apiVersion"} {
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
}
