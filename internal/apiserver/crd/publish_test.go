package crd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// raw asks with a media type and returns the body.
func (f *fixture) raw(verb, path, accept, body string) ([]byte, error) {
	f.Helper()
	c, err := rest.HTTPClientFor(f.Config)
	if err != nil {
		f.Fatal(err)
	}
	r, err := http.NewRequestWithContext(f.Context(), verb, f.Config.Host+path, strings.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	resp, err := c.Do(r)
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		f.Fatal(err)
	}
	clear(f.warned)
	headers, _ := net.ParseWarningHeaders(resp.Header.Values("Warning"))
	for _, h := range headers {
		f.warned[h.Text] = true
	}
	if status := (&metav1.Status{}); resp.StatusCode >= 400 && json.Unmarshal(data, status) == nil {
		return nil, &apierrors.StatusError{ErrStatus: *status}
	}
	return data, nil
}

func TestFieldValidation(t *testing.T) {
	f := start(t)
	f.define(boats)
	const path = "/apis/example.com/v1/namespaces/default/boats"
	post := func(name, how, rest string) error {
		_, err := f.raw("POST", path+"?fieldValidation="+how, "", `{"apiVersion":"example.com/v1","kind":"Boat","metadata":{"name":"`+name+`"}`+rest+`}`)
		return err
	}
	const bad = `,"spec":{"crew":1,"crew":2,"odd":1,"cargo":{"apiVersion":"v1","kind":"X","metadata":{"odd":1}}},"extra":1`
	want := []string{
		`duplicate field "spec.crew"`, `unknown field "extra"`, `unknown field "spec.odd"`, `unknown field "spec.cargo.metadata.odd"`,
	}
	err := post("a", "Strict", bad)
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `Boat in version "v1" cannot be handled as a Boat: strict decoding error: `) {
		t.Errorf("Strict: %v", err)
	}
	for _, text := range want {
		if err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("Strict: %v lacks %s", err, text)
		}
	}
	if err := post("b", "Warn", bad); err != nil {
		t.Errorf("Warn: %v", err)
	}
	for _, text := range want {
		if !f.warned[text] {
			t.Errorf("Warn: %v lacks %s", f.warned, text)
		}
	}
	if err := post("c", "Ignore", bad); err != nil || len(f.warned) > 0 {
		t.Errorf("Ignore: %v, warnings %v", err, f.warned)
	}
	if err := post("d", "Strict", `,"spec":{"crew":1}`); err != nil {
		t.Errorf("a good object: %v", err)
	}
	_, err = f.raw("POST", path+"?fieldValidation=Strict", "", `{"apiVersion":"example.com/v1","kind":"Boat","metadata":{"name":"e","odd":1}}`)
	if err == nil || !strings.Contains(err.Error(), `unknown field "metadata.odd"`) {
		t.Errorf("unknown metadata: %v", err)
	}
	_, err = f.raw("POST", path, "", `{"apiVersion":"example.com/v1","kind":"Boat","metadata":{"name":"f","labels":{"a":1}}}`)
	if !apierrors.IsBadRequest(err) {
		t.Errorf("malformed metadata: %v", err)
	}
	_, err = f.raw("POST", path, "", `{"apiVersion":"example.com/v1","metadata":{"name":"g"}}`)
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "Object 'Kind' is missing in") {
		t.Errorf("no kind: %v", err)
	}
}

func TestTable(t *testing.T) {
	f := start(t)
	f.define(boats)
	f.create(f.boats("v1"), `{apiVersion: example.com/v1, kind: Boat, metadata: {name: a}, spec: {crew: 4}}`)
	body, err := f.raw("GET", "/apis/example.com/v1/boats", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "")
	if err != nil {
		t.Fatal(err)
	}
	table := &metav1.Table{}
	if err := json.Unmarshal(body, table); err != nil {
		t.Fatal(err)
	}
	var columns []string
	for _, c := range table.ColumnDefinitions {
		columns = append(columns, fmt.Sprintf("%s/%s/%d", c.Name, c.Type, c.Priority))
	}
	if got := strings.Join(columns, " "); got != "Name/string/0 Color/string/0 Crew/integer/1 Launched/date/0" {
		t.Errorf("columns are %s", got)
	}
	cells := table.Rows[0].Cells
	if cells[0] != "a" || cells[1] != "white" || cells[2] != float64(4) || !strings.HasSuffix(cells[3].(string), "s") {
		t.Errorf("cells are %v", cells)
	}
	// There is no such form, and the refusal has it: a Status is no custom object.
	if body, err := f.raw("GET", "/apis/example.com/v1/boats", "application/vnd.kubernetes.protobuf", ""); err != nil || !strings.Contains(string(body), string(metav1.StatusReasonNotAcceptable)) {
		t.Errorf("protobuf: %v %q", err, body)
	}
}

func TestDiscovery(t *testing.T) {
	f := start(t)
	f.define(boats)
	c, err := discovery.NewDiscoveryClientForConfig(f.Config)
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.ServerResourcesForGroupVersion("example.com/v1")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range list.APIResources {
		names = append(names, fmt.Sprintf("%s %s %v %v %v", r.Name, r.Kind, r.Namespaced, r.ShortNames, r.Categories))
	}
	want := []string{"boats Boat true [bo] [all]", "boats/scale Scale true [] []", "boats/status Boat true [] []"}
	if !slices.Equal(names, want) {
		t.Errorf("resources are %q", names)
	}
	aggregated := func() *apidiscoveryv2.APIGroupDiscovery {
		body, err := f.raw("GET", "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "")
		if err != nil {
			t.Fatal(err)
		}
		groups := &apidiscoveryv2.APIGroupDiscoveryList{}
		if err := json.Unmarshal(body, groups); err != nil {
			t.Fatal(err)
		}
		for i := range groups.Items {
			if groups.Items[i].Name == "example.com" {
				return &groups.Items[i]
			}
		}
		return nil
	}
	if g := aggregated(); g == nil || g.Versions[0].Resources[0].Resource != "boats" || g.Versions[0].Resources[0].ShortNames[0] != "bo" {
		t.Errorf("aggregated discovery has %+v", g)
	}
	if err := f.dynamic.Resource(crds).Delete(t.Context(), "boats.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.eventually(func() error {
		if g := aggregated(); g != nil {
			return fmt.Errorf("the group is still there: %+v", g)
		}
		return nil
	})
}

func TestOpenAPI(t *testing.T) {
	f := start(t)
	f.define(boats)
	v3 := func() *spec3.OpenAPI {
		body, err := f.raw("GET", "/openapi/v3/apis/example.com/v1", "application/json", "")
		if err != nil {
			t.Fatal(err)
		}
		doc := &spec3.OpenAPI{}
		if len(body) > 0 { // there is one: a document that is not there is 404 without a body
			if err := json.Unmarshal(body, doc); err != nil {
				t.Fatal(err)
			}
		}
		return doc
	}
	doc := v3()
	boat := doc.Components.Schemas["com.example.v1.Boat"]
	if boat == nil || boat.Properties["spec"].Properties["color"].Default != "white" || len(boat.Properties["metadata"].AllOf) == 0 {
		t.Fatalf("v3 says %+v", boat)
	}
	if got := boat.Properties["spec"].Extensions["x-kubernetes-validations"]; got == nil {
		t.Errorf("v3 does not say the rules: %v", boat.Properties["spec"].Extensions)
	}
	for _, path := range []string{"/apis/example.com/v1/boats", "/apis/example.com/v1/namespaces/{namespace}/boats/{name}", "/apis/example.com/v1/namespaces/{namespace}/boats/{name}/status", "/apis/example.com/v1/namespaces/{namespace}/boats/{name}/scale"} {
		if doc.Paths.Paths[path] == nil {
			t.Errorf("v3 lacks %s, it has %v", path, slices.Collect(maps.Keys(doc.Paths.Paths)))
		}
	}
	v2 := func() spec.Definitions {
		body, err := f.raw("GET", "/openapi/v2", "application/json", "")
		if err != nil {
			t.Fatal(err)
		}
		doc := &spec.Swagger{}
		if err := json.Unmarshal(body, doc); err != nil {
			t.Fatal(err)
		}
		return doc.Definitions
	}
	old := v2()["com.example.v1.Boat"]
	fields, meta := old.Properties["spec"].Properties, old.Properties["metadata"]
	if fields["free"].Type != nil || fields["crew"].Type[0] != "integer" || meta.Ref.String() != "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta" {
		t.Errorf("v2 says %+v", old)
	}
	f.change("boats.example.com", func(d *unstructured.Unstructured) { delete(specOf(d), "color"); dropRules(d) })
	f.eventually(func() error {
		if _, still := v3().Components.Schemas["com.example.v1.Boat"].Properties["spec"].Properties["color"]; still {
			return fmt.Errorf("v3 is not up to date")
		}
		return nil
	})
	if err := f.dynamic.Resource(crds).Delete(t.Context(), "boats.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.eventually(func() error {
		if _, still := v2()["com.example.v1.Boat"]; still {
			return fmt.Errorf("v2 still has the kind")
		}
		return nil
	})
	if doc := v3(); doc.Components != nil {
		t.Errorf("v3 still has the group")
	}
}

func dropRules(d *unstructured.Unstructured) {
	versions := d.Object["spec"].(map[string]any)["versions"].([]any)
	version := versions[0].(map[string]any)
	delete(version, "selectableFields")
	s := version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
	delete(s["properties"].(map[string]any)["spec"].(map[string]any), "x-kubernetes-validations")
}
