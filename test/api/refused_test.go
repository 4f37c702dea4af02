package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// refusal is one change of a valid object and why upstream's v1.36.3 refuses
// it: every cause, in order.
type refusal struct {
	// Base names the object in refused.yaml.
	Base string
	// Op is create, update or status.
	Op string
	// At is the path of what is set to Value, or removed.
	At      []any
	Value   any
	Removed bool
	Causes  []string
}

// TestRefused plays changes of the objects of most groups.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.ok(http.StatusCreated, call{Method: "POST", Path: "/api/v1/namespaces", Body: `{"metadata":{"name":"diff"}}`})
	text, err := os.ReadFile("testdata/refused.yaml")
	if err != nil {
		t.Fatal(err)
	}
	byBase := map[string][]refusal{}
	for _, line := range facts(t, "refused.jsonl") {
		var r refusal
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		byBase[r.Base] = append(byBase[r.Base], r)
	}
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var name, path string
		if _, err := fmt.Sscanf(doc, "# %s %s\n", &name, &path); err != nil {
			t.Fatal(err)
		}
		base := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &base.Object); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { s.in(t).refused(base, path, byBase[name]) })
	}
}

func (s *server) refused(base *unstructured.Unstructured, path string, refusals []refusal) {
	one := path + "/" + base.GetName()
	needs := func(op string) bool {
		return slices.ContainsFunc(refusals, func(r refusal) bool { return r.Op == op })
	}
	if needs("update") || needs("status") {
		s.ok(http.StatusCreated, call{Method: "POST", Path: path, Body: s.text(base)})
		defer s.ok(http.StatusOK, call{Method: "DELETE", Path: one})
	}
	if needs("status") {
		s.ok(http.StatusOK, call{Method: "PATCH", Path: one + "/status", Type: "application/merge-patch+json",
			Body: s.text(&unstructured.Unstructured{Object: map[string]any{"status": base.Object["status"]}})})
	}
	ask := func(r *refusal) answer {
		obj, c := base.DeepCopy(), call{Method: "POST", Path: path}
		if r.Op != "create" {
			obj, c = s.ok(http.StatusOK, call{Method: "GET", Path: one}).object(s), call{Method: "PUT", Path: one}
		}
		if r.Op == "status" {
			c.Path += "/status"
		}
		r.change(s.T, obj.Object)
		c.Path, c.Body = c.Path+"?dryRun=All", s.text(obj)
		return s.do(c)
	}
	for i := range refusals {
		r := &refusals[i]
		got := ask(r)
		// Controllers may write the status of what is there.
		for n := 0; got.Code == http.StatusConflict && n < 10; n++ {
			got = ask(r)
		}
		var status metav1.Status
		if err := json.Unmarshal(got.Body, &status); err != nil {
			s.Fatal(err)
		}
		var causes []string
		if status.Details != nil {
			for _, c := range status.Details.Causes {
				causes = append(causes, fmt.Sprintf("%s: %s: %s", c.Field, c.Type, c.Message))
			}
		}
		if got.Code != http.StatusUnprocessableEntity || !slices.Equal(causes, r.Causes) {
			s.Errorf("%s with %v = %v (removed: %v): %d %s\n\t%s\nwant\n\t%s", r.Op, r.At, r.Value, r.Removed,
				got.Code, status.Message, strings.Join(causes, "\n\t"), strings.Join(r.Causes, "\n\t"))
		}
	}
}

func (s *server) text(obj *unstructured.Unstructured) string {
	s.Helper()
	js, err := json.Marshal(obj.Object)
	if err != nil {
		s.Fatal(err)
	}
	return string(js)
}

// change carries out the change.
func (r *refusal) change(t *testing.T, obj any) {
	t.Helper()
	for i, step := range r.At {
		last := i == len(r.At)-1
		switch at := obj.(type) {
		case map[string]any:
			switch key := step.(string); {
			case last && r.Removed:
				delete(at, key)
			case last:
				at[key] = runtime.DeepCopyJSONValue(r.Value)
			default:
				obj = at[key]
			}
		case []any:
			index := int(step.(float64))
			if last {
				at[index] = runtime.DeepCopyJSONValue(r.Value)
			} else {
				obj = at[index]
			}
		default:
			t.Fatalf("%v is not in the object", r.At)
		}
	}
}
