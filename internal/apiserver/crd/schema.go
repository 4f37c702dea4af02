package crd

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	skiffcel "skiff/internal/apiserver/cel"
)

// version is one version of a definition. What its schema means is worked out
// when the first object of the version comes by.
type version struct {
	*apiextensionsv1.CustomResourceDefinitionVersion // without the schema
	// stored is the whole of it; nil if that is no longer there.
	stored func() *apiextensionsv1.CustomResourceDefinitionVersion
	// preserve says that the definition is from before schemas had to be
	// structural.
	preserve bool

	// structure is made once, for objects; it is nil when the schema is not
	// structural: nothing is pruned or defaulted then.
	structure func() *structural.Structural
	checks    func() (*checks, error)
	cel       *skiffcel.Metrics
}

// checks are what objects of a version have to pass.
type checks struct {
	schema validation.SchemaValidator
	// status checks what is below .status alone; nil when nothing is said of it.
	status validation.SchemaValidator
	rules  *cel.Validator
	cel    *skiffcel.Metrics
}

func newVersion(c *Config, v *apiextensionsv1.CustomResourceDefinitionVersion, preserve bool, stored func() *apiextensionsv1.CustomResourceDefinitionVersion) *version {
	out := &version{CustomResourceDefinitionVersion: v, preserve: preserve, stored: stored, cel: c.CEL}
	out.structure = sync.OnceValue(out.readStructure)
	out.checks = sync.OnceValues(out.compile)
	return out
}

// readStructure makes the structural schema for one use.
func (v *version) readStructure() *structural.Structural {
	if v.preserve {
		return nil
	}
	s, err := structureOf(v.stored())
	if err != nil {
		return nil
	}
	return s
}

// props is the version's schema in the form that the library works on.
func props(v *apiextensionsv1.CustomResourceDefinitionVersion) (*apiextensions.JSONSchemaProps, error) {
	if v == nil || v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return nil, nil
	}
	out := &apiextensions.JSONSchemaProps{}
	err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema.DeepCopy(), out, nil)
	return out, err
}

func structureOf(v *apiextensionsv1.CustomResourceDefinitionVersion) (*structural.Structural, error) {
	p, err := props(v)
	if err != nil || p == nil {
		return nil, err
	}
	s, err := structural.NewStructural(p)
	if err != nil {
		return nil, err
	}
	return s, defaulting.PruneDefaults(s)
}

func (v *version) compile() (*checks, error) {
	p, err := props(v.stored())
	if err != nil {
		return nil, fmt.Errorf("the schema of version %s cannot be used: %w", v.Name, err)
	}
	c := &checks{cel: v.cel}
	if c.schema, _, err = validation.NewSchemaValidator(p); err != nil {
		return nil, fmt.Errorf("the schema of version %s cannot be used: %w", v.Name, err)
	}
	if p != nil {
		if status, ok := p.Properties["status"]; ok {
			if c.status, _, err = validation.NewSchemaValidator(&status); err != nil {
				return nil, fmt.Errorf("the schema of version %s cannot be used: %w", v.Name, err)
			}
		}
	}
	if s := v.structure(); s != nil {
		began := time.Now()
		if c.rules = cel.NewValidator(s, true, celconfig.PerCallLimit); c.rules != nil {
			c.cel.Compiled(began)
		}
	}
	return c, nil
}

// coercion says how strictly an object is fitted to its schema.
type coercion struct {
	// stored objects may be older than today's checks: metadata that is no good
	// is dropped instead of refused.
	stored bool
	// report asks for the paths of unknown fields.
	report bool
}

// coerce drops from u what the schema does not know, and returns the paths if
// that is asked for.
func (v *version) coerce(u *unstructured.Unstructured, how coercion) (unknown []string, err error) {
	kind, apiVersion := u.GetKind(), u.GetAPIVersion()
	meta, hasMeta, unknown, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: how.stored, ReturnUnknownFieldPaths: how.report,
	})
	if err != nil {
		return nil, err
	}
	s := v.structure()
	if s != nil {
		unknown = append(unknown, pruning.PruneWithOptions(u.Object, s, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: how.report})...)
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, s)
	}
	ferr, paths := objectmeta.CoerceWithOptions(nil, u.Object, s, false, objectmeta.CoerceOptions{
		DropInvalidFields: how.stored, ReturnUnknownFieldPaths: how.report,
	})
	if ferr != nil {
		return nil, ferr
	}
	unknown = append(unknown, paths...)
	if how.stored && meta != nil && meta.Generation == 0 {
		meta.Generation = 1
	}
	u.SetKind(kind)
	u.SetAPIVersion(apiVersion)
	if hasMeta {
		if err := objectmeta.SetObjectMeta(u.Object, meta); err != nil {
			return nil, err
		}
	}
	return unknown, nil
}

// fill sets the defaults that the schema gives.
func (v *version) fill(u *unstructured.Unstructured) {
	if s := v.structure(); s != nil {
		defaulting.Default(u.Object, s)
	}
}
