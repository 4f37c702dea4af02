package api

import (
	"bytes"
	"io"
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"skiff/internal/apiserver/features"
	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
)

const mediaCBOR = "application/cbor"

// cbor writes a document.
func cbor(t testing.TB, v any) string {
	t.Helper()
	data, err := direct.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// cborObject reads an answer, which must be a document that says that it is CBOR.
func (a answer) cborObject(t testing.TB) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if !bytes.HasPrefix(a.Body, []byte("\xd9\xd9\xf7")) {
		t.Fatalf("the answer is not CBOR: %q", a.Body)
	}
	if err := direct.Unmarshal(a.Body, &u.Object); err != nil {
		t.Fatalf("the answer is not CBOR: %v: %q", err, a.Body)
	}
	return u
}

func startCBOR(t *testing.T) *server {
	return over(t, testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{FeatureGates: features.Set{features.CBORServingAndStorage: true}}}))
}

// TestCBORIsOff has what upstream answers by default.
func TestCBORIsOff(t *testing.T) {
	t.Parallel()
	s := start(t)
	const maps = "/api/v1/namespaces/default/configmaps"
	if a := s.do(call{Method: "GET", Path: maps, Accept: mediaCBOR}); a.Code != 406 ||
		a.status(t).Message != "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch" {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	if a := s.ok(200, call{Method: "GET", Path: maps, Accept: mediaCBOR + ", " + mediaJSON}); a.Header.Get("Content-Type") != mediaJSON {
		t.Errorf("a client that takes both gets %s", a.Header.Get("Content-Type"))
	}
	body := cbor(t, map[string]any{"metadata": map[string]any{"name": "x"}})
	if a := s.do(call{Method: "POST", Path: maps, Type: mediaCBOR, Body: body}); a.Code != 415 || a.status(t).Reason != "UnsupportedMediaType" {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	if a := s.do(call{Method: "PATCH", Path: maps + "/x?fieldManager=m", Type: "application/apply-patch+cbor", Body: body}); a.Code != 415 {
		t.Errorf("%d %s", a.Code, a.Body)
	}
}

func TestCBOR(t *testing.T) {
	t.Parallel()
	s := startCBOR(t)
	t.Run("built-in", s.cborBuiltIn)
	t.Run("custom", s.cborCustom)
	t.Run("watch", s.cborWatch)
	t.Run("refusals", s.cborRefusals)
}

// same compares an object in both serialisations. Lists are of a time, so they
// are read until no write has come between the two.
func (s *server) same(path, accept string) {
	s.Helper()
	for {
		a := s.ok(200, call{Method: "GET", Path: path, Accept: mediaCBOR + accept})
		if got := a.Header.Get("Content-Type"); got != mediaCBOR {
			s.Errorf("%s: Content-Type %s", path, got)
		}
		got, want := a.cborObject(s), s.ok(200, call{Method: "GET", Path: path, Accept: mediaJSON + accept}).object(s)
		if got.GetResourceVersion() != want.GetResourceVersion() {
			continue
		}
		if !reflect.DeepEqual(got.Object, want.Object) {
			s.Errorf("%s: %v\nin JSON: %v", path, got.Object, want.Object)
		}
		return
	}
}

const asPartialList = ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"

func (s *server) cborBuiltIn(t *testing.T) {
	s = s.in(t)
	s.namespace("cbor")
	const maps = "/api/v1/namespaces/cbor/configmaps"
	made := s.ok(201, call{Method: "POST", Path: maps, Type: mediaCBOR, Accept: mediaCBOR, Body: cbor(t, map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "a", "labels": map[string]any{"l": "v"}},
		"data": map[string]any{"k": "v"}, "binaryData": map[string]any{"b": []byte{0, 255}},
	})}).cborObject(t)
	if made.GetKind() != "ConfigMap" || made.GetAPIVersion() != "v1" || get(t, made, "data", "k") != "v" || get(t, made, "binaryData", "b") != "AP8=" {
		t.Errorf("%v", made.Object)
	}
	s.same(maps+"/a", "")
	s.same(maps, "")
	s.same(maps, asPartialList)
	s.same("/api/v1/namespaces", "")
	s.same("/api/v1/namespaces/cbor/services?limit=1", "")
	// Numbers, times and quantities.
	s.same("/api/v1/namespaces/kube-system", "")
	s.same("/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", "")
	s.same("/apis/apps/v1", "")

	applied := s.ok(200, call{Method: "PATCH", Path: maps + "/a?fieldManager=m&force=true", Type: "application/apply-patch+cbor", Accept: mediaCBOR, Body: cbor(t, map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "a"}, "data": map[string]any{"k": "applied"},
	})}).cborObject(t)
	if get(t, applied, "data", "k") != "applied" {
		t.Errorf("%v", applied.Object)
	}
	applied.Object["data"] = map[string]any{"k": "updated"}
	updated := s.ok(200, call{Method: "PUT", Path: maps + "/a", Type: mediaCBOR, Body: cbor(t, applied.Object)}).object(t)
	if get(t, updated, "data", "k") != "updated" {
		t.Errorf("%v", updated.Object)
	}
	status := s.ok(200, call{Method: "DELETE", Path: maps + "/a", Type: mediaCBOR, Accept: mediaCBOR, Body: cbor(t, map[string]any{
		"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": map[string]any{"uid": string(updated.GetUID())},
	})}).cborObject(t)
	if status.GetKind() != "Status" || get(t, status, "status") != "Success" {
		t.Errorf("%v", status.Object)
	}
}

func (s *server) cborCustom(t *testing.T) {
	s = s.in(t)
	s.ok(201, call{Method: "POST", Path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", Type: mediaCBOR, Body: cbor(t, map[string]any{
		"metadata": map[string]any{"name": "things.cbor.example.com"},
		"spec": map[string]any{
			"group": "cbor.example.com", "scope": "Cluster", "names": map[string]any{"plural": "things", "kind": "Thing"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": map[string]any{
				"type": "object", "properties": map[string]any{"spec": map[string]any{"type": "object", "properties": map[string]any{
					"count": map[string]any{"type": "integer"}, "part": map[string]any{"type": "number"}, "kept": map[string]any{"type": "string", "default": "yes"},
				}}},
			}}}},
		},
	})})
	const things = "/apis/cbor.example.com/v1/things"
	s.until("the resource to be served", func() bool { return s.do(call{Method: "GET", Path: things}).Code == 200 })
	made := s.ok(201, call{Method: "POST", Path: things + "?fieldValidation=Ignore", Type: mediaCBOR, Accept: mediaCBOR, Body: cbor(t, map[string]any{
		"apiVersion": "cbor.example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": "a"},
		"spec": map[string]any{"count": int64(1) << 40, "part": 0.5, "unknown": true},
	})}).cborObject(t)
	if get(t, made, "spec", "count") != int64(1)<<40 || get(t, made, "spec", "part") != 0.5 || get(t, made, "spec", "kept") != "yes" || get(t, made, "spec", "unknown") != nil {
		t.Errorf("%v", made.Object)
	}
	s.same(things+"/a", "")
	s.same(things, "")
	applied := s.ok(201, call{Method: "PATCH", Path: things + "/b?fieldManager=m", Type: "application/apply-patch+cbor", Accept: mediaCBOR, Body: cbor(t, map[string]any{
		"apiVersion": "cbor.example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": "b"}, "spec": map[string]any{"count": 2},
	})}).cborObject(t)
	if get(t, applied, "spec", "count") != int64(2) {
		t.Errorf("%v", applied.Object)
	}
}

func (s *server) cborWatch(t *testing.T) {
	s = s.in(t)
	s.namespace("watched")
	s.configMap("watched", "a", "1")
	for _, accept := range []string{mediaCBOR, "application/cbor-seq"} {
		a := s.ok(200, call{Method: "GET", Path: "/api/v1/namespaces/watched/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1", Accept: accept})
		if got := a.Header.Get("Content-Type"); got != "application/cbor-seq" {
			t.Errorf("Content-Type %s", got)
		}
		var types []string
		for rest := bytes.NewReader(a.Body); rest.Len() > 0; {
			data := nextCBOR(t, rest)
			var ev struct {
				Type   string         `json:"type"`
				Object map[string]any `json:"object"`
			}
			if err := direct.Unmarshal(data, &ev); err != nil {
				t.Fatalf("%v: %q", err, data)
			}
			if ev.Object["kind"] != "ConfigMap" || ev.Object["apiVersion"] != "v1" {
				t.Errorf("%v", ev)
			}
			types = append(types, ev.Type)
		}
		if len(types) < 2 || types[0] != "ADDED" || types[1] != "BOOKMARK" {
			t.Errorf("events %v", types)
		}
	}
}

// nextCBOR takes the first document off a sequence: the shortest beginning that
// is a whole one.
func nextCBOR(t testing.TB, r *bytes.Reader) []byte {
	t.Helper()
	all, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	for n := 4; n <= len(all); n++ {
		var v any
		if direct.Unmarshal(all[:n], &v) == nil {
			r.Reset(all[n:])
			return all[:n]
		}
	}
	t.Fatalf("no document: %q", all)
	return nil
}

func (s *server) cborRefusals(t *testing.T) {
	s = s.in(t)
	const maps = "/api/v1/namespaces/default/configmaps"
	for name, body := range map[string]string{
		"nothing": "", "half a document": "\xd9\xd9\xf7\xa1", "JSON": `{"metadata":{"name":"x"}}`, "a list": "\x80",
		"a key twice": "\xa2\x44kind\x43Foo\x44kind\x43Foo", "without end": "\xbf",
		"another kind": cbor(t, map[string]any{"kind": "Secret", "apiVersion": "v1", "metadata": map[string]any{"name": "x"}}),
	} {
		a := s.do(call{Method: "POST", Path: maps, Type: mediaCBOR, Accept: mediaCBOR, Body: body})
		if a.Code != 400 || a.Header.Get("Content-Type") != mediaCBOR {
			t.Errorf("%s: %d %s %q", name, a.Code, a.Header.Get("Content-Type"), a.Body)
			continue
		}
		if u := a.cborObject(t); u.GetKind() != "Status" || get(t, u, "reason") != "BadRequest" {
			t.Errorf("%s: %v", name, u.Object)
		}
	}
	body := cbor(t, map[string]any{"metadata": map[string]any{"name": "x"}, "dta": map[string]any{}})
	if a := s.do(call{Method: "POST", Path: maps + "?fieldValidation=Strict", Type: mediaCBOR, Body: body}); a.Code != 400 || !bytes.Contains(a.Body, []byte(`unknown field \"dta\"`)) {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	if a := s.ok(201, call{Method: "POST", Path: maps, Type: mediaCBOR, Body: body}); a.Header.Get("Warning") != `299 - "unknown field \"dta\""` {
		t.Errorf("%s", a.Header.Get("Warning"))
	}
	if a := s.do(call{Method: "GET", Path: maps, Accept: "image/png"}); a.status(t).Message != "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/cbor, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch, application/cbor-seq" {
		t.Errorf("%s", a.Body)
	}
}
