package crd_test

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

const tightened = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: tights.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: tights, kind: Tight}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              touched: {type: integer}
%s
`

// keyword is one of the schema's, which comes to be when there are objects.
type keyword struct {
	name string
	// schema is what stands beside keyword, in a flow mapping.
	schema, keyword string
	// was is what an object has that was made before, other another value that
	// the keyword forbids.
	was, other string
	refused    string // the error about them
	// strict keywords also hold for what stays as it was, waived ones for no
	// object that they were not met by before.
	strict, waived bool
}

// keywords are all that can make a value invalid.
var keywords = []keyword{
	{name: "enum", schema: "type: string", keyword: "enum: [a, b]", was: "c", other: "d", refused: `Unsupported value: "d": supported values: "a", "b"`},
	{name: "pattern", schema: "type: string", keyword: "pattern: '^a+$'", was: "b", other: "c", refused: "in body should match '^a+$'"},
	{name: "format", schema: "type: string", keyword: "format: ipv4", was: "b", other: "c", refused: "in body must be of type ipv4"},
	{name: "min-length", schema: "type: string", keyword: "minLength: 3", was: "b", other: "c", refused: "in body should be at least 3 chars long"},
	{name: "max-length", schema: "type: string", keyword: "maxLength: 2", was: "bbb", other: "ccc", refused: "Too long: may not be more than 2 bytes"},
	{name: "minimum", schema: "type: integer", keyword: "minimum: 10", was: "1", other: "2", refused: "in body should be greater than or equal to 10"},
	{name: "maximum", schema: "type: integer", keyword: "maximum: 10", was: "11", other: "12", refused: "in body should be less than or equal to 10"},
	{name: "exclusive", schema: "type: number", keyword: "minimum: 10, exclusiveMinimum: true", was: "10", other: "9.5", refused: "in body should be greater than 10"},
	{name: "multiple", schema: "type: integer", keyword: "multipleOf: 5", was: "3", other: "4", refused: "in body should be a multiple of 5"},
	{name: "min-items", schema: "type: array, items: {type: string}", keyword: "minItems: 3", was: "[a]", other: "[b]", refused: "in body should have at least 3 items"},
	{name: "max-items", schema: "type: array, items: {type: string}", keyword: "maxItems: 1", was: "[a, b]", other: "[b, c]", refused: "Too many: 2: must have at most 1 item"},
	{name: "min-properties", schema: "type: object, additionalProperties: {type: string}", keyword: "minProperties: 3", was: "{a: b}", other: "{b: c}", refused: "in body should have at least 3 properties"},
	{name: "max-properties", schema: "type: object, additionalProperties: {type: string}", keyword: "maxProperties: 1", was: "{a: b, c: d}", other: "{a: b, c: e}", refused: "Too many: 2: must have at most 1 item"},
	{name: "required", schema: "type: object, properties: {a: {type: string}, b: {type: string}}", keyword: "required: [a]", was: "{b: b}", other: "{b: c}", refused: "a: Required value"},
	{name: "type", schema: "x-kubernetes-preserve-unknown-fields: true", keyword: "type: object", was: "text", other: "other", refused: "in body must be of type object"},
	{name: "rule", schema: "type: string, maxLength: 20", keyword: `x-kubernetes-validations: [{rule: "self.startsWith('a')", message: needs an a}]`, was: "b", other: "c", refused: "needs an a"},
	{name: "optional-rule", schema: "type: string, maxLength: 20", keyword: `x-kubernetes-validations: [{rule: "self.startsWith('a') || oldSelf.hasValue() && oldSelf.value() == ''", optionalOldSelf: true, message: needs an a}]`, was: "b", other: "c", refused: "needs an a", strict: true},
	{name: "transition", schema: "type: string, maxLength: 20", keyword: `x-kubernetes-validations: [{rule: "self.startsWith('a') && oldSelf.startsWith('a')", message: needs an a}]`, was: "b", other: "c", refused: "needs an a", strict: true},
	{name: "all-of", schema: "type: string", keyword: "allOf: [{pattern: '^a+$'}]", was: "b", other: "c", refused: "in body should match '^a+$'"},
	{name: "any-of", schema: "type: string", keyword: "anyOf: [{pattern: '^a+$'}, {pattern: '^x+$'}]", was: "b", other: "c", refused: `"spec.any-of" must validate at least one schema (anyOf)`},
	{name: "one-of", schema: "type: string", keyword: "oneOf: [{pattern: '^a+$'}, {pattern: '^x+$'}]", was: "b", other: "c", refused: `"spec.one-of" must validate one and only one schema (oneOf). Found none valid`},
	{name: "not", schema: "type: string", keyword: "not: {pattern: '^b'}", was: "b", other: "bb", refused: `"spec.not" must not validate the schema (not)`},
	{name: "embedded", schema: "type: object, x-kubernetes-preserve-unknown-fields: true", keyword: "x-kubernetes-embedded-resource: true", was: "{a: b}", other: "{a: c}", refused: "apiVersion: Required value", strict: true},
	{name: "set", schema: "type: array, items: {type: string}", keyword: "x-kubernetes-list-type: set", was: "[a, a]", other: "[b, b]", refused: "Duplicate value", waived: true},
}

func (k *keyword) property(tight bool) string {
	schema := k.schema
	if tight {
		schema += ", " + k.keyword
	}
	if k.name == "type" && tight {
		schema = k.keyword
	}
	return fmt.Sprintf("{%s}", schema)
}

// TestRatcheting: an object that was made before a keyword came to be can be
// changed as long as the part that the keyword forbids stays as it is.
func TestRatcheting(t *testing.T) {
	var loose strings.Builder
	for _, k := range keywords {
		fmt.Fprintf(&loose, "              %s: %s\n", k.name, k.property(false))
	}
	f := start(t)
	f.define(fmt.Sprintf(tightened, loose.String()))
	c := f.dynamic.Resource(boatsGVR("v1").GroupVersion().WithResource("tights")).Namespace("default")
	object := func(name, field, value string) *unstructured.Unstructured {
		return parse(t, fmt.Sprintf(`{apiVersion: example.com/v1, kind: Tight, metadata: {name: %s}, spec: {%s: %s}}`, name, field, value))
	}
	for _, k := range keywords {
		if _, err := c.Create(t.Context(), object(k.name, k.name, k.was), metav1.CreateOptions{}); err != nil {
			t.Fatalf("%s: %v", k.name, err)
		}
	}
	f.change("tights.example.com", func(d *unstructured.Unstructured) {
		for _, k := range keywords {
			var schema map[string]any
			if err := yaml.Unmarshal([]byte(k.property(true)), &schema); err != nil {
				t.Fatal(err)
			}
			specOf(d)[k.name] = schema
		}
	})
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	f.eventually(func() error {
		if _, err := c.Create(t.Context(), object("probe", "enum", "c"), dryRun); !apierrors.IsInvalid(err) {
			return fmt.Errorf("the changed schema is not in force: %v", err)
		}
		return nil
	})
	for _, k := range keywords {
		t.Run(k.name, func(t *testing.T) {
			patch := func(text string) error {
				js, err := yaml.YAMLToJSON([]byte(text))
				if err != nil {
					t.Fatal(err)
				}
				_, err = c.Patch(t.Context(), k.name, types.MergePatchType, js, metav1.PatchOptions{})
				return err
			}
			wrong := func(err error) bool {
				return !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec."+k.name) || !strings.Contains(err.Error(), k.refused)
			}
			// Transition rules say nothing of new objects.
			if _, err := c.Create(t.Context(), object("new", k.name, k.other), dryRun); wrong(err) && k.name != "transition" {
				t.Errorf("a new object: %v", err)
			}
			if err := patch("{spec: {touched: 1}}"); k.strict && wrong(err) || !k.strict && err != nil {
				t.Errorf("a change beside: %v", err)
			}
			if k.name == "rule" {
				stored, err := c.Get(t.Context(), k.name, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				js, err := stored.MarshalJSON()
				if err != nil {
					t.Fatal(err)
				}
				const left = `spec.rule: Invalid value: "b": needs an a`
				if _, err := f.raw("PUT", "/apis/example.com/v1/namespaces/default/tights/rule", "application/json", string(js)); err != nil || !f.warned[left] {
					t.Errorf("what stays wrong is not warned of: %v, %v", f.warned, err)
				}
			}
			if err := patch(fmt.Sprintf("{spec: {%s: %s}}", k.name, k.other)); k.waived && err != nil || !k.waived && wrong(err) {
				t.Errorf("a change of what is forbidden: %v", err)
			}
		})
	}
}

// TestRatchetingWithin: what is unchanged is found again in objects, maps and
// lists that are maps, but in no other lists.
func TestRatchetingWithin(t *testing.T) {
	const text = "{type: string, maxLength: 20}"
	f := start(t)
	f.define(fmt.Sprintf(tightened, strings.NewReplacer("TEXT", text).Replace(`
              object: {type: object, properties: {a: TEXT, b: TEXT}}
              map: {type: object, additionalProperties: TEXT}
              keyed: {type: array, maxItems: 9, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: TEXT, a: TEXT, b: TEXT}}}
              atomic: {type: array, maxItems: 9, items: {type: object, properties: {a: TEXT, b: TEXT}}}
              set: {type: array, maxItems: 9, x-kubernetes-list-type: set, items: TEXT}
`)))
	c := f.dynamic.Resource(boatsGVR("v1").GroupVersion().WithResource("tights")).Namespace("default")
	make := func(name, spec string) {
		t.Helper()
		if _, err := c.Create(t.Context(), parse(t, `{apiVersion: example.com/v1, kind: Tight, metadata: {name: `+name+`}, spec: `+spec+`}`), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	make("object", "{object: {a: bad, b: x}}")
	make("map", "{map: {a: bad, b: x}}")
	make("keyed", "{keyed: [{name: one, a: bad}, {name: two, a: ok}]}")
	make("atomic", "{atomic: [{a: bad}, {a: ok}]}")
	make("set", "{set: [bad, ok]}")
	for _, means := range []string{"pattern: '^(ok|x)'", `x-kubernetes-validations: [{rule: "self.startsWith('ok') || self.startsWith('x')"}]`} {
		f.change("tights.example.com", func(d *unstructured.Unstructured) {
			tight := parse(t, fmt.Sprintf(tightened, strings.NewReplacer("TEXT", "{type: string, maxLength: 20, "+means+"}", "NAME", text).Replace(`
              object: {type: object, properties: {a: TEXT, b: TEXT}}
              map: {type: object, additionalProperties: TEXT}
              keyed: {type: array, maxItems: 9, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: NAME, a: TEXT, b: TEXT}}}
              atomic: {type: array, maxItems: 9, items: {type: object, properties: {a: TEXT, b: TEXT}}}
              set: {type: array, maxItems: 9, x-kubernetes-list-type: set, items: TEXT}
              means: {type: string, enum: ["`+fmt.Sprint(len(means))+`"]}
`)))
			d.Object["spec"] = tight.Object["spec"]
		})
		dryRun := metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}
		patch := func(name, spec string) error {
			js, err := yaml.YAMLToJSON([]byte("{spec: " + spec + "}"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Patch(t.Context(), name, types.MergePatchType, js, dryRun)
			return err
		}
		f.eventually(func() error { // the enum of means tells which schema is in force
			if err := patch("object", fmt.Sprintf(`{means: "%d"}`, len(means))); err != nil {
				return fmt.Errorf("the changed schema is not in force: %v", err)
			}
			return nil
		})
		for _, tt := range []struct {
			name, spec string
			refused    string
		}{
			{"object", "{object: {b: xx}}", ""},
			{"object", "{object: {a: worse}}", "spec.object.a"},
			{"map", "{map: {b: xx, c: ok}}", ""},
			{"map", "{map: {a: worse}}", "spec.map.a"},
			{"map", "{map: {c: bad}}", "spec.map.c"},
			{"keyed", "{keyed: [{name: one, a: bad}, {name: two, a: x}]}", ""},
			{"keyed", "{keyed: [{name: two, a: ok}, {name: one, a: bad}]}", ""},
			{"keyed", "{keyed: [{name: zero, a: ok}, {name: one, a: bad, b: x}]}", ""},
			{"keyed", "{keyed: [{name: one, a: worse}]}", "spec.keyed[0].a"},
			{"keyed", "{keyed: [{name: other, a: bad}]}", "spec.keyed[0].a"},
			{"atomic", "{touched: 1}", ""},
			{"atomic", "{atomic: [{a: bad}, {a: x}]}", "spec.atomic[0].a"},
			{"set", "{touched: 1}", ""},
			{"set", "{set: [bad, ok, x]}", "spec.set[0]"},
		} {
			err := patch(tt.name, tt.spec)
			// Rules name the keys of maps in brackets.
			wrong := !apierrors.IsInvalid(err) || !strings.Contains(strings.NewReplacer("map[", "map.").Replace(err.Error()), tt.refused)
			if tt.refused == "" && err != nil || tt.refused != "" && wrong {
				t.Errorf("%s: %s: %v, want %q", means, tt.spec, err, tt.refused)
			}
		}
	}
}
