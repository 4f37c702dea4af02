package crd

import (
	"bytes"
	"fmt"
	"reflect"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/jsonpath"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

// ageColumn is what definitions without columns get.
func ageColumn() apiextensionsv1.CustomResourceColumnDefinition {
	return apiextensionsv1.CustomResourceColumnDefinition{
		Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp",
		Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
	}
}

// tableOf returns the Table form of a version: the name, then its columns.
func tableOf(v *version) ([]metav1.TableColumnDefinition, func(apis.Object) []any) {
	shown := v.AdditionalPrinterColumns
	if len(shown) == 0 {
		shown = []apiextensionsv1.CustomResourceColumnDefinition{ageColumn()}
	}
	headers := []metav1.TableColumnDefinition{columns.Name()}
	for _, c := range shown {
		text := c.Description
		if text == "" {
			text = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		headers = append(headers, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: text, Priority: c.Priority})
	}
	paths := sync.OnceValue(func() []*jsonpath.JSONPath {
		out := make([]*jsonpath.JSONPath, len(shown))
		for i, c := range shown {
			out[i] = parsePath(c.JSONPath)
		}
		return out
	})
	return headers, func(obj apis.Object) []any {
		u := obj.(*unstructured.Unstructured)
		cells := make([]any, 1, 1+len(shown))
		cells[0] = u.GetName()
		for i, path := range paths() {
			cells = append(cells, cell(shown[i].Type, path, u.Object))
		}
		return cells
	}
}

// parsePath returns nil for paths that cannot be parsed.
func parsePath(text string) *jsonpath.JSONPath {
	p := jsonpath.New("path").AllowMissingKeys(true)
	if err := p.Parse(fmt.Sprintf("{%s}", text)); err != nil {
		return nil
	}
	return p
}

// first returns the first thing at path.
func first(path *jsonpath.JSONPath, content map[string]any) (any, bool) {
	if path == nil {
		return nil, false
	}
	found, err := path.FindResults(content)
	if err != nil || len(found) == 0 || len(found[0]) == 0 {
		return nil, false
	}
	return found[0][0].Interface(), true
}

// cell shows what is at path as the kind of column says, nil if there is nothing
// of that kind.
func cell(kind string, path *jsonpath.JSONPath, content map[string]any) any {
	value, ok := first(path, content)
	if !ok {
		return nil
	}
	switch kind {
	case "string":
		var text bytes.Buffer
		if err := path.PrintResults(&text, []reflect.Value{reflect.ValueOf(value)}); err == nil {
			return text.String()
		}
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		if s, ok := value.(string); ok {
			var t metav1.Time
			if err := t.UnmarshalQueryParameter(s); err != nil {
				return "<invalid>"
			}
			return columns.Age(t)
		}
	}
	return nil
}

// selectable returns the functions that read the version's selectable fields.
func selectable(v *version) map[string]func(apis.Object) string {
	if len(v.SelectableFields) == 0 {
		return nil
	}
	out := make(map[string]func(apis.Object) string, len(v.SelectableFields))
	for _, f := range v.SelectableFields {
		path := sync.OnceValue(func() *jsonpath.JSONPath { return parsePath(f.JSONPath) })
		out[f.JSONPath[1:]] = func(obj apis.Object) string {
			value, ok := first(path(), obj.(*unstructured.Unstructured).Object)
			if !ok || value == nil {
				return ""
			}
			return fmt.Sprint(value)
		}
	}
	return out
}
