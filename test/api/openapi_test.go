package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// described are the definitions that the facts have paths of.
var described = []string{`{
	"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "gadgets.paths.example.com"},
	"spec": {"group": "paths.example.com", "scope": "Namespaced", "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"},
		"versions": [{"name": "v1", "served": true, "storage": true,
			"subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
			"schema": {"openAPIV3Schema": {"type": "object", "properties": {
				"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
				"status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}}]}}`, `{
	"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "ores.paths.example.com"},
	"spec": {"group": "paths.example.com", "scope": "Cluster", "names": {"plural": "ores", "singular": "ore", "kind": "Ore", "listKind": "OreList"},
		"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}`,
}

// TestOpenAPIPaths compares the documents that there are, and for each rule of
// their paths one, with upstream's.
func TestOpenAPIPaths(t *testing.T) {
	t.Parallel()
	s := start(t)
	var index struct{ Paths map[string]any }
	if err := json.Unmarshal(s.ok(http.StatusOK, call{Method: "GET", Path: "/openapi/v3"}).Body, &index); err != nil {
		t.Fatal(err)
	}
	compare(t, slices.Collect(maps.Keys(index.Paths)), facts(t, "openapi-documents.txt"), nil, []string{"apis/metrics.k8s.io*"})

	for _, d := range described {
		name := s.ok(http.StatusCreated, call{Method: "POST", Path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", Body: d}).object(t).GetName()
		s.until(name+" established", func() bool { return isEstablished(s, name) })
	}
	documents := map[string]map[string]any{}
	for _, line := range facts(t, "openapi-paths.jsonl") {
		var want struct {
			Document, Path string
			Item           any
		}
		if err := json.Unmarshal([]byte(line), &want); err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimPrefix(want.Document, "/openapi/")+want.Path, func(t *testing.T) {
			if documents[want.Document] == nil {
				var document struct{ Paths map[string]any }
				if err := json.Unmarshal(s.in(t).ok(http.StatusOK, call{Method: "GET", Path: want.Document}).Body, &document); err != nil {
					t.Fatal(err)
				}
				documents[want.Document] = document.Paths
			}
			if got := shorten(documents[want.Document][want.Path]); !reflect.DeepEqual(got, want.Item) {
				t.Errorf("the path is described as\n%s, and by upstream as\n%s", encoded(t, got), encoded(t, want.Item))
			}
		})
	}
}

// shorten replaces long texts by their hashes, which is how the facts have them.
func shorten(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = shorten(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = shorten(e)
		}
		return out
	case string:
		if len(v) > 100 {
			sum := sha256.Sum256([]byte(v))
			return hex.EncodeToString(sum[:6])
		}
	}
	return v
}

func encoded(t *testing.T, v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestOpenAPIKinds is which kinds the types are said to be of that are no
// resources of their document.
func TestOpenAPIKinds(t *testing.T) {
	t.Parallel()
	s := start(t)
	const meta = "io.k8s.apimachinery.pkg.apis.meta.v1."
	for _, row := range []struct{ document, definition, kinds string }{
		{"api/v1", meta + "DeleteOptions", "v1"},
		{"apis/apps/v1", meta + "DeleteOptions", "v1 apps/v1"},
		{"apis/apps/v1", meta + "WatchEvent", "v1 apps/v1"},
		{"apis/apps/v1", meta + "Status", "v1"},
		{"apis/apps/v1", meta + "ObjectMeta", ""},
		{"apis/apps/v1", "io.k8s.api.core.v1.PersistentVolumeClaim", "v1"},
		{"apis/apiextensions.k8s.io/v1", meta + "DeleteOptions", "v1 apiextensions.k8s.io/v1"},
		{"apis", meta + "APIGroup", "v1"},
	} {
		var document struct {
			Components struct {
				Schemas map[string]struct {
					Kinds []metav1.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
				}
			}
		}
		if err := json.Unmarshal(s.ok(http.StatusOK, call{Method: "GET", Path: "/openapi/v3/" + row.document}).Body, &document); err != nil {
			t.Fatal(err)
		}
		d, ok := document.Components.Schemas[row.definition]
		var got []string
		for _, k := range d.Kinds {
			got = append(got, metav1.GroupVersion{Group: k.Group, Version: k.Version}.String())
		}
		if strings.Join(got, " ") != row.kinds || !ok {
			t.Errorf("%s in %s: there %v, of %q, not %q", row.definition, row.document, ok, got, row.kinds)
		}
	}
}
