package crd

import (
	"encoding/json"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// FuzzSchema reads any object by any schema: what is wrong is an error, never
// a panic, and what was read once is read the same again.
func FuzzSchema(f *testing.F) {
	const object = `{"apiVersion":"example.com/v1","kind":"Boat","metadata":{"name":"a","labels":{"a":"b"}},"spec":{"a":null,"b":[{"c":1}]}}`
	for _, s := range []string{
		`{"type":"object"}`,
		`{"type":"object","x-kubernetes-preserve-unknown-fields":true}`,
		`{"type":"object","properties":{"spec":{"type":"object","properties":{"a":{"type":"string","default":"x"},"b":{"type":"array","items":{"type":"object","x-kubernetes-embedded-resource":true}}}}}}`,
		`{"type":"object","properties":{"spec":{"type":"object","additionalProperties":{"x-kubernetes-int-or-string":true}}}}`,
	} {
		f.Add([]byte(s), []byte(object))
	}
	f.Fuzz(func(t *testing.T, schema, object []byte) {
		props := &apiextensionsv1.JSONSchemaProps{}
		if json.Unmarshal(schema, props) != nil {
			return
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		crd.Spec.Group, crd.Spec.Names.Kind = "example.com", "Boat"
		crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{
			Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: props},
		}}
		stored := func() *apiextensionsv1.CustomResourceDefinition { return crd }
		obj, err := newDefinition(&Config{}, crd, &crd.Spec.Names, &life{}, stored).decode(object)
		if err != nil {
			return
		}
		once, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		if obj, err = newDefinition(&Config{}, crd, &crd.Spec.Names, &life{}, stored).decode(once); err != nil {
			t.Fatalf("%s is not readable again: %v", once, err)
		}
		if twice, _ := json.Marshal(obj); string(twice) != string(once) {
			t.Errorf("read once %s, twice %s", once, twice)
		}
	})
}
