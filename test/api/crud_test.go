package api

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// samples returns an object of each kind.
func samples(t *testing.T) map[schema.GroupVersionKind]*unstructured.Unstructured {
	data, err := os.ReadFile("testdata/objects.yaml")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "tests"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	out := map[schema.GroupVersionKind]*unstructured.Unstructured{}
	for _, doc := range strings.Split(strings.ReplaceAll(string(data), "${CSR}", csr), "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatal(err)
		}
		out[u.GroupVersionKind()] = u
	}
	return out
}

// TestEveryResource takes an object of each stored kind through every verb that
// discovery says its resource has.
func TestEveryResource(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.namespace("crud")
	s.serviceAccount("crud")
	_, lists, err := s.kube.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	objects := samples(t)
	seen := map[schema.GroupVersionKind]bool{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "watch") {
				continue
			}
			gvk := gv.WithKind(r.Kind)
			seen[gvk] = true
			t.Run(list.GroupVersion+"/"+r.Name, func(t *testing.T) {
				obj := objects[gvk]
				if obj == nil {
					t.Fatalf("testdata/objects.yaml has no %s", gvk)
				}
				t.Parallel()
				w := walk{server: s.in(t), resource: r, gvk: gvk, obj: obj.DeepCopy(), subresources: subresourcesOf(list, r.Name)}
				w.run()
			})
		}
	}
	for gvk := range objects {
		if !seen[gvk] {
			t.Errorf("%s is not served", gvk)
		}
	}
}

func subresourcesOf(list *metav1.APIResourceList, resource string) (out []string) {
	for _, r := range list.APIResources {
		if sub, ok := strings.CutPrefix(r.Name, resource+"/"); ok {
			out = append(out, sub)
		}
	}
	return out
}

// walk is one resource's way through the verbs.
type walk struct {
	*server
	resource     metav1.APIResource
	gvk          schema.GroupVersionKind
	obj          *unstructured.Unstructured
	subresources []string

	// collection and object are the paths.
	collection, object string
}

func (w *walk) run() {
	w.collection = "/apis/" + w.gvk.GroupVersion().String()
	if w.gvk.Group == "" {
		w.collection = "/api/v1"
	}
	if w.resource.Namespaced {
		w.collection += "/namespaces/crud"
	}
	w.collection += "/" + w.resource.Name
	w.object = w.collection + "/" + w.obj.GetName()
	// An owned field, for objects whose other fields are all as in an empty one.
	w.obj.SetAnnotations(map[string]string{"example.com/made-by": "walk"})

	body, err := json.Marshal(w.obj)
	if err != nil {
		w.Fatal(err)
	}
	// A dry run first: it must leave nothing behind.
	w.ok(http.StatusCreated, call{Method: "POST", Path: w.collection + "?dryRun=All&fieldValidation=Strict", Body: string(body)})
	w.ok(http.StatusNotFound, call{Method: "GET", Path: w.object})
	created := w.ok(http.StatusCreated, call{Method: "POST", Path: w.collection + "?fieldValidation=Strict", Body: string(body)}).object(w)
	for _, field := range []string{"uid", "creationTimestamp", "resourceVersion"} {
		if get(w, created, "metadata", field) == nil {
			w.Errorf("metadata.%s is not set", field)
		}
	}
	if created.GroupVersionKind() != w.gvk {
		w.Errorf("created is a %s, not a %s", created.GroupVersionKind(), w.gvk)
	}
	if m := created.GetManagedFields(); len(m) != 1 || m[0].Operation != "Update" || m[0].APIVersion != w.gvk.GroupVersion().String() {
		w.Errorf("managedFields are %v", m)
	}
	if st := w.ok(http.StatusConflict, call{Method: "POST", Path: w.collection, Body: string(body)}).status(w); st.Reason != metav1.StatusReasonAlreadyExists {
		w.Errorf("created twice: %s", st.Reason)
	}
	if w.gvk.Kind == "CustomResourceDefinition" {
		w.until("established", func() bool {
			return strings.Contains(string(w.ok(200, call{Method: "GET", Path: w.object}).Body), `"type":"Established"`)
		})
	}
	w.formats()
	w.watches(w.settled(created).GetResourceVersion())
	w.updates()
	w.patches()
	w.subs()
	w.deletes()
}

// settled returns the object once the server itself has written to it what it
// will: the conditions of a FlowSchema.
func (w *walk) settled(obj *unstructured.Unstructured) *unstructured.Unstructured {
	if w.gvk.Kind != "FlowSchema" {
		return obj
	}
	for w.Context().Err() == nil {
		obj = w.ok(200, call{Method: "GET", Path: w.object}).object(w)
		if get(w, obj, "status", "conditions") != nil {
			return obj
		}
	}
	w.Fatalf("there are no conditions: %v", obj)
	return nil
}

func (w *walk) annotation(key string) string {
	w.Helper()
	return w.ok(200, call{Method: "GET", Path: w.object}).object(w).GetAnnotations()[key]
}

func (w *walk) formats() {
	plain := w.ok(200, call{Method: "GET", Path: w.object}).object(w)
	var fromYAML unstructured.Unstructured
	a := w.ok(200, call{Method: "GET", Path: w.object, Accept: mediaYAML})
	if err := yaml.Unmarshal(a.Body, &fromYAML.Object); err != nil {
		w.Fatal(err)
	}
	if fromYAML.GetUID() != plain.GetUID() || fromYAML.GroupVersionKind() != w.gvk {
		w.Errorf("YAML: %s", a.Body)
	}
	a = w.ok(200, call{Method: "GET", Path: w.object, Accept: mediaProtobuf})
	var u runtime.Unknown
	if !bytes.HasPrefix(a.Body, []byte("k8s\x00")) {
		w.Fatalf("protobuf: %.40q", a.Body)
	}
	if err := u.Unmarshal(a.Body[4:]); err != nil {
		w.Fatal(err)
	}
	if u.Kind != w.gvk.Kind || u.APIVersion != w.gvk.GroupVersion().String() || len(u.Raw) == 0 {
		w.Errorf("protobuf envelope: %s %s, %d bytes", u.APIVersion, u.Kind, len(u.Raw))
	}
	for _, path := range []string{w.object, w.collection} {
		for include, want := range map[string]string{"None": "", "Metadata": "PartialObjectMetadata", "Object": w.gvk.Kind, "": "PartialObjectMetadata"} {
			query := ""
			if include != "" {
				query = "?includeObject=" + include
			}
			a := w.ok(200, call{Method: "GET", Path: path + query, Accept: "application/json;as=Table;v=v1;g=meta.k8s.io"})
			var table metav1.Table
			if err := json.Unmarshal(a.Body, &table); err != nil {
				w.Fatal(err)
			}
			if table.Kind != "Table" || table.APIVersion != "meta.k8s.io/v1" || len(table.ColumnDefinitions) == 0 || len(table.Rows) == 0 || table.ResourceVersion == "" {
				w.Fatalf("Table of %s: %s", path, a.Body)
			}
			for _, row := range table.Rows {
				if len(row.Cells) != len(table.ColumnDefinitions) {
					w.Errorf("%d cells for %d columns", len(row.Cells), len(table.ColumnDefinitions))
				}
				var kind metav1.TypeMeta
				if len(row.Object.Raw) > 0 {
					if err := json.Unmarshal(row.Object.Raw, &kind); err != nil {
						w.Fatal(err)
					}
				}
				if kind.Kind != want {
					w.Errorf("includeObject=%s gives %q, not %q", include, kind.Kind, want)
				}
			}
		}
	}
	w.ok(400, call{Method: "GET", Path: w.collection + "?includeObject=Some", Accept: "application/json;as=Table;v=v1;g=meta.k8s.io"})
	p := w.ok(200, call{Method: "GET", Path: w.object, Accept: "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}).object(w)
	if p.GetKind() != "PartialObjectMetadata" || p.GetUID() != plain.GetUID() || len(p.Object) != 3 {
		w.Errorf("PartialObjectMetadata: %v", p.Object)
	}
	for _, media := range []string{mediaJSON, mediaProtobuf, mediaYAML} {
		w.ok(200, call{Method: "GET", Path: w.collection, Accept: media})
		w.ok(200, call{Method: "GET", Path: w.collection, Accept: media + ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"})
	}
	list := w.ok(200, call{Method: "GET", Path: w.collection}).object(w)
	if list.GetKind() != w.gvk.Kind+"List" || list.GetAPIVersion() != w.gvk.GroupVersion().String() {
		w.Errorf("the list is a %s", list.GroupVersionKind())
	}
	items, _ := get(w, list, "items").([]any)
	if !slices.ContainsFunc(items, func(i any) bool {
		u := unstructured.Unstructured{Object: i.(map[string]any)}
		return u.GetUID() == plain.GetUID()
	}) {
		w.Errorf("the list of %d lacks the object", len(items))
	}
}

// watches reads the first events after nothing and after a revision.
func (w *walk) watches(rv string) {
	events := w.stream(call{Method: "GET", Path: w.collection + "?watch=1&fieldSelector=metadata.name%3D" + w.obj.GetName()})
	event := events.next()
	got := unstructured.Unstructured{Object: event.Object}
	if event.Type != "ADDED" || got.GetName() != w.obj.GetName() || got.GroupVersionKind() != w.gvk || (got.GetResourceVersion() != rv && !w.own()) {
		w.Errorf("first event: %v", event)
	}
}

func (w *walk) updates() {
	update := func(obj *unstructured.Unstructured, media string) answer {
		data, err := json.Marshal(obj)
		if err != nil {
			w.Fatal(err)
		}
		if media == mediaYAML {
			if data, err = yaml.JSONToYAML(data); err != nil {
				w.Fatal(err)
			}
		}
		return w.do(call{Method: "PUT", Path: w.object, Body: string(data), Type: media})
	}
	for _, media := range []string{mediaJSON, mediaYAML} {
		obj := w.ok(200, call{Method: "GET", Path: w.object}).object(w)
		old := obj.GetResourceVersion()
		obj.SetAnnotations(map[string]string{"example.com/media": media})
		a := update(obj, media)
		if a.Code != 200 || a.object(w).GetAnnotations()["example.com/media"] != media || a.object(w).GetResourceVersion() == old {
			w.Fatalf("update in %s: %d %s", media, a.Code, a.Body)
		}
		stale := a.object(w)
		stale.SetResourceVersion(old)
		stale.SetAnnotations(nil)
		if a := update(stale, media); a.Code != 409 || a.status(w).Reason != metav1.StatusReasonConflict {
			w.Errorf("update of an old version: %d %s", a.Code, a.Body)
		}
	}
	// What was read in protobuf is written back in protobuf; nothing changes.
	a := w.ok(200, call{Method: "GET", Path: w.object, Accept: mediaProtobuf})
	before := w.ok(200, call{Method: "GET", Path: w.object}).object(w)
	after := w.ok(200, call{Method: "PUT", Path: w.object, Body: string(a.Body), Type: mediaProtobuf}).object(w)
	if before.GetResourceVersion() != after.GetResourceVersion() {
		w.Errorf("an update that changes nothing went from %s to %s", before.GetResourceVersion(), after.GetResourceVersion())
	}
}

func (w *walk) patches() {
	for i, p := range []struct{ media, body string }{
		{"application/json-patch+json", `[{"op":"add","path":"/metadata/annotations/example.com~1patched","value":"0"}]`},
		{"application/merge-patch+json", `{"metadata":{"annotations":{"example.com/patched":"1"}}}`},
		{"application/strategic-merge-patch+json", `{"metadata":{"annotations":{"example.com/patched":"2"}}}`},
		{"application/apply-patch+yaml", fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, annotations: {example.com/patched: \"3\"}}\n", w.gvk.GroupVersion(), w.gvk.Kind, w.obj.GetName())},
	} {
		query := "?fieldManager=walk"
		if strings.Contains(p.media, "apply") {
			query += "&force=true"
		}
		before := w.annotation("example.com/patched")
		w.ok(200, call{Method: "PATCH", Path: w.object + query + "&dryRun=All", Body: p.body, Type: p.media})
		if now := w.annotation("example.com/patched"); now != before {
			w.Errorf("%s as a dry run stored %q", p.media, now)
		}
		w.ok(200, call{Method: "PATCH", Path: w.object + query, Body: p.body, Type: p.media})
		if got := w.annotation("example.com/patched"); got != fmt.Sprint(i) {
			w.Errorf("%s: %q", p.media, got)
		}
	}
}

func (w *walk) subs() {
	if slices.Contains(w.subresources, "status") {
		obj := w.ok(200, call{Method: "GET", Path: w.object + "/status"}).object(w)
		data, err := json.Marshal(obj)
		if err != nil {
			w.Fatal(err)
		}
		w.ok(200, call{Method: "PUT", Path: w.object + "/status", Body: string(data)})
		w.ok(200, call{Method: "PATCH", Path: w.object + "/status", Body: `{"metadata":{"annotations":{"example.com/status":"1"}}}`, Type: "application/merge-patch+json"})
		w.ok(405, call{Method: "DELETE", Path: w.object + "/status"})
		w.ok(405, call{Method: "POST", Path: w.object + "/status", Body: string(data)})
	}
	if slices.Contains(w.subresources, "scale") {
		scale := w.ok(200, call{Method: "GET", Path: w.object + "/scale"}).object(w)
		if scale.GetKind() != "Scale" || scale.GetAPIVersion() != "autoscaling/v1" {
			w.Errorf("scale: %v", scale.Object)
		}
		if err := unstructured.SetNestedField(scale.Object, int64(2), "spec", "replicas"); err != nil {
			w.Fatal(err)
		}
		data, err := json.Marshal(scale)
		if err != nil {
			w.Fatal(err)
		}
		w.ok(200, call{Method: "PUT", Path: w.object + "/scale", Body: string(data)})
		w.ok(200, call{Method: "PATCH", Path: w.object + "/scale", Body: `{"spec":{"replicas":3}}`, Type: "application/merge-patch+json"})
		obj := w.ok(200, call{Method: "GET", Path: w.object}).object(w)
		if got := get(w, obj, "spec", "replicas"); got != int64(3) && got != float64(3) {
			w.Errorf("replicas are %v", got)
		}
	}
}

func (w *walk) deletes() {
	w.ok(200, call{Method: "DELETE", Path: w.object + "?dryRun=All"})
	w.ok(200, call{Method: "GET", Path: w.object})
	wrong := `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"00000000-0000-0000-0000-000000000000"}}`
	w.ok(409, call{Method: "DELETE", Path: w.object, Body: wrong})
	code := w.do(call{Method: "DELETE", Path: w.object}).Code
	if code != 200 && code != 202 {
		w.Fatalf("delete: %d", code)
	}
	w.free()
	w.ok(404, call{Method: "GET", Path: w.object})
	if st := w.ok(404, call{Method: "DELETE", Path: w.object}).status(w); st.Details == nil || st.Details.Name != w.obj.GetName() || st.Details.Kind != w.resource.Name || st.Details.Group != w.gvk.Group {
		w.Errorf("404: %+v", st)
	}
	if !slices.Contains(w.resource.Verbs, "deletecollection") {
		return
	}
	w.obj.SetLabels(map[string]string{"example.com/walk": "collection"})
	body, err := json.Marshal(w.obj)
	if err != nil {
		w.Fatal(err)
	}
	w.ok(http.StatusCreated, call{Method: "POST", Path: w.collection, Body: string(body)})
	list := w.ok(200, call{Method: "DELETE", Path: w.collection + "?labelSelector=example.com/walk%3Dcollection"}).object(w)
	if items, _ := get(w, list, "items").([]any); len(items) != 1 {
		w.Errorf("deletecollection: %v", list.Object)
	}
	w.free()
	w.ok(404, call{Method: "GET", Path: w.object})
}

// own tells kinds that the API server itself keeps: their status changes by
// itself, and their deletion comes to an end.
func (w *walk) own() bool {
	return w.gvk.Kind == "CustomResourceDefinition" || w.gvk.Kind == "APIService"
}

// free takes away what keeps a deleted object: no controllers run here.
func (w *walk) free() {
	a := w.do(call{Method: "GET", Path: w.object})
	if a.Code == 404 {
		return
	}
	obj := a.object(w)
	if obj.GetDeletionTimestamp() == nil {
		w.Fatalf("deleted, but without deletionTimestamp: %s", a.Body)
	}
	if w.gvk.Kind == "Namespace" {
		w.ok(200, call{Method: "PUT", Path: w.object + "/finalize", Body: `{"metadata":{"name":"` + w.obj.GetName() + `"},"spec":{"finalizers":[]}}`})
		return
	}
	if a := w.do(call{Method: "PATCH", Path: w.object, Type: "application/merge-patch+json", Body: `{"metadata":{"finalizers":null}}`}); a.Code != 200 && !w.own() {
		w.Fatalf("%d %s", a.Code, a.Body)
	}
	if grace := obj.GetDeletionGracePeriodSeconds(); grace != nil && *grace > 0 {
		w.ok(200, call{Method: "DELETE", Path: w.object, Body: `{"gracePeriodSeconds":0}`})
	}
}
