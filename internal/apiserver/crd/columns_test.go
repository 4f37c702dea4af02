package crd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

const shown = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: showns.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: showns, kind: Shown}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Text, type: string, jsonPath: .spec.value}
    - {name: Integer, type: integer, format: int64, jsonPath: .spec.value}
    - {name: Number, type: number, format: double, jsonPath: .spec.value}
    - {name: Flag, type: boolean, jsonPath: .spec.value}
    - {name: When, type: date, jsonPath: .spec.value, description: how long ago}
    - {name: Wide, type: string, jsonPath: '.spec.list[*].name', priority: 1}
    - {name: Last, type: string, format: byte, jsonPath: '.spec.list[?(@.name=="b")].kind'}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
  - name: v2
    served: true
    storage: false
    schema:
      openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`

// TestColumns: a value is shown in columns of its type, and nothing is in
// those of other types.
func TestColumns(t *testing.T) {
	f := start(t)
	f.define(shown)
	c := f.dynamic.Resource(boatsGVR("v1").GroupVersion().WithResource("showns")).Namespace("default")
	hourAgo := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	specs := map[string]string{
		"none": "{}", "empty": "{value: null}", "text": "{value: some}", "integer": "{value: 7}", "number": "{value: 7.5}", "whole": "{value: 8.0}", "flag": "{value: true}",
		"digits": `{value: "7"}`, "when": fmt.Sprintf("{value: %q}", hourAgo), "object": "{value: {a: b}}", "list": "{value: [1, 2]}",
		"items": "{list: [{name: a, kind: one}, {name: b, kind: two}, {name: b, kind: three}]}",
	}
	want := map[string][]any{ // the name and the first seven columns
		"none":    {nil, nil, nil, nil, nil, nil, nil},
		"empty":   {"<no value>", nil, nil, nil, nil, nil, nil},
		"text":    {"some", nil, nil, nil, "<invalid>", nil, nil},
		"integer": {"7", 7.0, 7.0, nil, nil, nil, nil},
		"number":  {"7.5", 7.0, 7.5, nil, nil, nil, nil},
		"whole":   {"8", 8.0, 8.0, nil, nil, nil, nil},
		"flag":    {"true", nil, nil, true, nil, nil, nil},
		"digits":  {"7", nil, nil, nil, "<invalid>", nil, nil},
		"when":    {hourAgo, nil, nil, nil, "60m", nil, nil},
		"object":  {`{"a":"b"}`, nil, nil, nil, nil, nil, nil},
		"list":    {"[1,2]", nil, nil, nil, nil, nil, nil},
		"items":   {nil, nil, nil, nil, nil, "a", "two"},
	}
	for name, spec := range specs {
		f.create(c, fmt.Sprintf(`{apiVersion: example.com/v1, kind: Shown, metadata: {name: %s}, spec: %s}`, name, spec))
	}
	table := f.table("/apis/example.com/v1/namespaces/default/showns")
	for i, header := range []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name"},
		{Name: "Text", Type: "string"}, {Name: "Integer", Type: "integer", Format: "int64"}, {Name: "Number", Type: "number", Format: "double"},
		{Name: "Flag", Type: "boolean"}, {Name: "When", Type: "date", Description: "how long ago"}, {Name: "Wide", Type: "string", Priority: 1},
		{Name: "Last", Type: "string", Format: "byte"}, {Name: "Age", Type: "date"},
	} {
		got := table.ColumnDefinitions[i]
		if header.Description == "" {
			got.Description = ""
		}
		if got != header {
			t.Errorf("column %d is %+v, want %+v", i, got, header)
		}
	}
	if len(table.Rows) != len(want) {
		t.Fatalf("%d rows", len(table.Rows))
	}
	for _, row := range table.Rows {
		name := row.Cells[0].(string)
		if got := row.Cells[1:8]; !reflect.DeepEqual(got, want[name]) {
			t.Errorf("%s of %s is shown as %#v, want %#v", name, specs[name], got, want[name])
		}
		if age, ok := row.Cells[8].(string); !ok || !strings.HasSuffix(age, "s") {
			t.Errorf("%s has the age %v", name, row.Cells[8])
		}
	}
	if table := f.table("/apis/example.com/v2/namespaces/default/showns/text"); len(table.ColumnDefinitions) != 2 || table.ColumnDefinitions[1].Name != "Age" || len(table.Rows) != 1 {
		t.Errorf("a version without columns: %+v", table)
	}
}

// table reads the Table form of a path.
func (f *fixture) table(path string) *metav1.Table {
	f.Helper()
	client, err := rest.HTTPClientFor(f.Config)
	if err != nil {
		f.Fatal(err)
	}
	request, err := http.NewRequestWithContext(f.Context(), "GET", f.Config.Host+path, nil)
	if err != nil {
		f.Fatal(err)
	}
	request.Header.Set("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
	response, err := client.Do(request)
	if err != nil {
		f.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		f.Fatal(err)
	}
	table := &metav1.Table{}
	if err := json.Unmarshal(data, table); err != nil || table.Kind != "Table" {
		f.Fatalf("%s: %v %s", path, err, data)
	}
	return table
}
