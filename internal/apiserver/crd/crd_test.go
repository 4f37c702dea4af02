package crd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"skiff/internal/cluster/testcluster"
)

// deadline is how long a test waits for what must come.
const deadline = 20 * time.Second

var crds = apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions")

// fixture is an API server and clients of it.
type fixture struct {
	*testing.T
	*testcluster.Cluster
	dynamic dynamic.Interface
	// warned are the warnings that came with the last raw answer.
	warned warnings
}

func start(t *testing.T) *fixture {
	c := testcluster.Start(t)
	d, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{T: t, Cluster: c, dynamic: d, warned: warnings{}}
}

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	js, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = u.UnmarshalJSON(js)
	}
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return u
}

// define creates a definition and waits until it is established.
func (f *fixture) define(text string) *unstructured.Unstructured {
	f.Helper()
	u, err := f.dynamic.Resource(crds).Create(f.Context(), parse(f.T, text), metav1.CreateOptions{})
	if err != nil {
		f.Fatal(err)
	}
	return f.await(u.GetName(), "Established", "True")
}

// await watches a definition until the condition has the status.
func (f *fixture) await(name, condition, status string) *unstructured.Unstructured {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), deadline)
	defer cancel()
	w, err := f.dynamic.Resource(crds).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		f.Fatal(err)
	}
	defer w.Stop()
	for ev := range w.ResultChan() {
		u, ok := ev.Object.(*unstructured.Unstructured)
		if !ok {
			f.Fatalf("watch: %v", ev.Object)
		}
		if conditionOf(u, condition)["status"] == status {
			return u
		}
	}
	f.Fatalf("%s never became %s=%s", name, condition, status)
	return nil
}

func conditionOf(u *unstructured.Unstructured, kind string) map[string]any {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		if m := c.(map[string]any); m["type"] == kind {
			return m
		}
	}
	return nil
}

func (f *fixture) boats(version string) dynamic.ResourceInterface {
	return f.dynamic.Resource(schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "boats"}).Namespace("default")
}

func (f *fixture) create(c dynamic.ResourceInterface, text string) *unstructured.Unstructured {
	f.Helper()
	u, err := c.Create(f.Context(), parse(f.T, text), metav1.CreateOptions{})
	if err != nil {
		f.Fatalf("creating %s: %v", text, err)
	}
	return u
}

const boats = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat, shortNames: [bo], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.crew, statusReplicasPath: .status.crew, labelSelectorPath: .status.selector}}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Color, type: string, jsonPath: .spec.color}
    - {name: Crew, type: integer, jsonPath: .spec.crew, priority: 1}
    - {name: Launched, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              color: {type: string, maxLength: 10, default: white, enum: [white, red, blue]}
              crew: {type: integer, minimum: 0}
              port: {x-kubernetes-int-or-string: true}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              cargo: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
              berths:
                type: array
                maxItems: 10
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string, maxLength: 20}, beds: {type: integer, default: 2}}}
            x-kubernetes-validations:
            - {rule: "!has(self.crew) || self.crew <= 7", messageExpression: "'too many for ' + self.color", reason: FieldValueForbidden, fieldPath: .crew}
            - {rule: "self.color != 'blue' || oldSelf.color == 'blue'", message: once not blue never blue}
          status:
            type: object
            properties: {crew: {type: integer}, selector: {type: string}, note: {type: string, maxLength: 5}}
`

func TestLifecycle(t *testing.T) {
	f := start(t)
	ctx := t.Context()
	d := f.define(boats)
	if got := conditionOf(d, "NamesAccepted"); got["status"] != "True" || got["reason"] != "NoConflicts" || got["message"] != "no conflicts found" {
		t.Errorf("NamesAccepted is %v", got)
	}
	if got := conditionOf(d, "Established"); got["reason"] != "InitialNamesAccepted" {
		t.Errorf("Established is %v", got)
	}
	if got, _, _ := unstructured.NestedStringSlice(d.Object, "status", "storedVersions"); len(got) != 1 || got[0] != "v1" {
		t.Errorf("stored versions are %v", got)
	}

	// Another definition that wants one of the names is refused it, until the
	// first is gone.
	other := strings.NewReplacer("boats", "ships", "Boat", "Ship").Replace(boats)
	if _, err := f.dynamic.Resource(crds).Create(ctx, parse(t, other), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	refused := f.await("ships.example.com", "NamesAccepted", "False")
	if got := conditionOf(refused, "NamesAccepted"); got["reason"] != "ShortNamesConflict" || got["message"] != `"bo" is already in use` {
		t.Errorf("NamesAccepted is %v", got)
	}
	if got := conditionOf(refused, "Established"); got["reason"] != "NotAccepted" {
		t.Errorf("Established is %v", got)
	}

	held := f.create(f.boats("v1"), `{apiVersion: example.com/v1, kind: Boat, metadata: {name: held, finalizers: [example.com/hold]}}`)
	f.create(f.boats("v1"), `{apiVersion: example.com/v1, kind: Boat, metadata: {name: free}}`)
	w, err := f.boats("v1").Watch(ctx, metav1.ListOptions{ResourceVersion: held.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.dynamic.Resource(crds).Delete(ctx, "boats.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for ev := range w.ResultChan() {
		if u := ev.Object.(*unstructured.Unstructured); ev.Type == watch.Deleted && u.GetName() == "free" {
			break
		}
	}
	w.Stop()
	if got := conditionOf(f.await("boats.example.com", "Terminating", "True"), "Terminating"); got["reason"] != "InstanceDeletionInProgress" && got["reason"] != "InstanceDeletionPending" {
		t.Errorf("Terminating is %v", got)
	}
	_, err = f.boats("v1").Create(ctx, parse(t, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: late}}`), metav1.CreateOptions{})
	if !apierrors.IsMethodNotSupported(err) {
		t.Errorf("creating while the definition is terminating: %v", err)
	}
	gone, err := f.dynamic.Resource(crds).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=boats.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Stop()
	if _, err := f.boats("v1").Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for ev := range gone.ResultChan() {
		if ev.Type == watch.Deleted {
			break
		}
	}
	f.await("ships.example.com", "Established", "True")
	if _, err := f.boats("v1").List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the definition is gone: %v", err)
	}
}

// TestEstablishedMeansServed creates objects at the very moment at which the
// definition is seen to be established.
func TestEstablishedMeansServed(t *testing.T) {
	f := start(t)
	for i := range 20 {
		name := fmt.Sprintf("b%ds", i)
		f.define(strings.NewReplacer("boats", name, "Boat", fmt.Sprintf("B%d", i), "[bo]", "[]").Replace(boats))
		r := f.dynamic.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: name}).Namespace("default")
		f.create(r, fmt.Sprintf(`{apiVersion: example.com/v1, kind: B%d, metadata: {name: x}}`, i))
	}
}

func TestObjects(t *testing.T) {
	f := start(t)
	ctx := t.Context()
	f.define(boats)
	c := f.boats("v1")

	u := f.create(c, `
apiVersion: example.com/v1
kind: Boat
metadata: {name: a}
spec: {crew: 3, unknown: 1, free: {anything: [1]}, port: web, berths: [{name: x, odd: 1}], cargo: {apiVersion: v1, kind: Pod, metadata: {name: p, odd: 1}, spec: {x: 1}}}
status: {crew: 9}
`)
	spec := u.Object["spec"].(map[string]any)
	want := `{"berths":[{"beds":2,"name":"x"}],"cargo":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"x":1}},"color":"white","crew":3,"free":{"anything":[1]},"port":"web"}`
	if got, _ := json.Marshal(spec); string(got) != want {
		t.Errorf("stored\n%s, want\n%s", got, want)
	}
	if _, ok := u.Object["status"]; ok || u.GetGeneration() != 1 {
		t.Errorf("a new object has status %v, generation %d", u.Object["status"], u.GetGeneration())
	}

	patch := func(sub string, t types.PatchType, body string) (*unstructured.Unstructured, error) {
		return c.Patch(ctx, "a", t, []byte(body), metav1.PatchOptions{FieldManager: "test"}, strings.Fields(sub)...)
	}
	must := func(u *unstructured.Unstructured, err error) *unstructured.Unstructured {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	u = must(patch("", types.MergePatchType, `{"spec":{"color":"red"},"status":{"crew":1}}`))
	if u.GetGeneration() != 2 || u.Object["status"] != nil {
		t.Errorf("after a patch of the spec: generation %d, status %v", u.GetGeneration(), u.Object["status"])
	}
	u = must(patch("status", types.MergePatchType, `{"metadata":{"labels":{"a":"b"}},"spec":{"color":"white"},"status":{"crew":1,"selector":"a=b"}}`))
	if color, _, _ := unstructured.NestedString(u.Object, "spec", "color"); color != "red" || u.GetGeneration() != 2 || len(u.GetLabels()) > 0 {
		t.Errorf("a patch of the status changed %v", u.Object)
	}
	u = must(patch("", types.JSONPatchType, `[{"op":"replace","path":"/spec/crew","value":5}]`))
	if crew, _, _ := unstructured.NestedInt64(u.Object, "spec", "crew"); crew != 5 {
		t.Errorf("a JSON patch made the crew %d", crew)
	}
	if _, err := patch("", types.StrategicMergePatchType, `{}`); !apierrors.IsUnsupportedMediaType(err) {
		t.Errorf("a strategic merge patch: %v", err)
	}

	scale := must(c.Get(ctx, "a", metav1.GetOptions{}, "scale"))
	if got, _ := json.Marshal(map[string]any{"spec": scale.Object["spec"], "status": scale.Object["status"]}); string(got) != `{"spec":{"replicas":5},"status":{"replicas":1,"selector":"a=b"}}` {
		t.Errorf("the scale is %s", got)
	}
	must(patch("scale", types.MergePatchType, `{"spec":{"replicas":6}}`))
	if _, err := patch("scale", types.MergePatchType, `{"spec":{"replicas":8}}`); !apierrors.IsInvalid(err) {
		t.Errorf("a scale that the schema forbids: %v", err)
	}

	f.create(c, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: b}}`)
	list, err := c.List(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"})
	if err != nil || len(list.Items) != 1 || list.Items[0].GetName() != "a" {
		t.Errorf("selected by field: %v, %v", list, err)
	}
	if _, err := c.List(ctx, metav1.ListOptions{FieldSelector: "spec.crew=1"}); err == nil || err.Error() != "field label not supported: spec.crew" {
		t.Errorf("a field that is not selectable: %v", err)
	}
}

func TestApply(t *testing.T) {
	f := start(t)
	f.define(boats)
	apply := func(manager, body string, force bool) (*unstructured.Unstructured, error) {
		return f.boats("v1").Patch(t.Context(), "a", types.ApplyPatchType, []byte(body), metav1.PatchOptions{FieldManager: manager, Force: &force})
	}
	const head = `{"apiVersion":"example.com/v1","kind":"Boat","metadata":{"name":"a"},"spec":`
	if _, err := apply("one", head+`{"color":"red","berths":[{"name":"x"}]}}`, false); err != nil {
		t.Fatal(err)
	}
	u, err := apply("two", head+`{"berths":[{"name":"y","beds":1}]}}`, false)
	if err != nil {
		t.Fatal(err)
	}
	if berths, _, _ := unstructured.NestedSlice(u.Object, "spec", "berths"); len(berths) != 2 {
		t.Errorf("two managers' berths are %v", berths)
	}
	if _, err := apply("two", head+`{"color":"white"}}`, false); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one": .spec.color`) {
		t.Errorf("a conflict: %v", err)
	}
	if u, err = apply("two", head+`{"color":"white"}}`, true); err != nil {
		t.Fatal(err)
	}
	if berths, _, _ := unstructured.NestedSlice(u.Object, "spec", "berths"); len(berths) != 1 {
		t.Errorf("what is no longer applied is still there: %v", berths)
	}
	if _, err := apply("two", head+`{"unknown":1}}`, true); err == nil || !strings.Contains(err.Error(), ".spec.unknown: field not declared in schema") {
		t.Errorf("an unknown field: %v", err)
	}
}

func TestValidation(t *testing.T) {
	f := start(t)
	ctx := t.Context()
	f.define(boats)
	c := f.boats("v1")
	for name, test := range map[string]struct{ spec, want string }{
		"enum":     {`{color: green}`, `spec.color: Unsupported value: "green": supported values: "white", "red", "blue"`},
		"type":     {`{crew: many}`, `spec.crew: Invalid value: "string": spec.crew in body must be of type integer: "string"`},
		"minimum":  {`{crew: -1}`, `spec.crew: Invalid value: -1: spec.crew in body should be greater than or equal to 0`},
		"required": {`{berths: [{beds: 1}]}`, `spec.berths[0].name: Required value`},
		"list map": {`{berths: [{name: a}, {name: a}]}`, `spec.berths[1]: Duplicate value: {"name":"a"}`},
		"rule":     {`{crew: 8}`, `spec.crew: Forbidden: too many for white`},
		"embedded": {`{cargo: {kind: Pod}}`, `spec.cargo.apiVersion: Required value`},
	} {
		_, err := c.Create(ctx, parse(t, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: x}, spec: `+test.spec+`}`), metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	f.create(c, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: a}, spec: {}}`)
	merge := func(body string, sub ...string) error {
		_, err := c.Patch(ctx, "a", types.MergePatchType, []byte(body), metav1.PatchOptions{}, sub...)
		return err
	}
	if err := merge(`{"spec":{"color":"blue"}}`); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "once not blue never blue") {
		t.Errorf("a transition rule: %v", err)
	}
	if err := merge(`{"status":{"note":"too long"}}`, "status"); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "status.note: Too long: may not be more than 5 bytes") {
		t.Errorf("a status: %v", err)
	}
	u, err := c.Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	u.SetResourceVersion("")
	if _, err := c.Update(ctx, u, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "metadata.resourceVersion: Invalid value") {
		t.Errorf("an update without resource version: %v", err)
	}

	// What was allowed once and is not touched stays (ratcheting).
	if err := merge(`{"spec":{"crew":6}}`); err != nil {
		t.Fatal(err)
	}
	f.change("boats.example.com", func(d *unstructured.Unstructured) {
		spec := specOf(d)["crew"].(map[string]any)
		spec["maximum"] = int64(4)
	})
	f.eventually(func() error {
		if err := merge(`{"spec":{"crew":5}}`); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.crew: Invalid value: 5: spec.crew in body should be less than or equal to 4") {
			return fmt.Errorf("a value that the new schema forbids: %v", err)
		}
		return nil
	})
	if err := merge(`{"spec":{"color":"red"}}`); err != nil {
		t.Errorf("a change beside an old value: %v", err)
	}
}

// specOf is the schema of .spec's properties in a definition's first version.
func specOf(d *unstructured.Unstructured) map[string]any {
	versions := d.Object["spec"].(map[string]any)["versions"].([]any)
	s := versions[0].(map[string]any)["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
	return s["properties"].(map[string]any)["spec"].(map[string]any)["properties"].(map[string]any)
}

// change updates a definition.
func (f *fixture) change(name string, change func(*unstructured.Unstructured)) {
	f.Helper()
	for {
		d, err := f.dynamic.Resource(crds).Get(f.Context(), name, metav1.GetOptions{})
		if err != nil {
			f.Fatal(err)
		}
		change(d)
		_, err = f.dynamic.Resource(crds).Update(f.Context(), d, metav1.UpdateOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			f.Fatal(err)
		}
	}
}

// eventually tries until check is content: a changed definition takes effect
// soon, but not at once.
func (f *fixture) eventually(check func() error) {
	f.Helper()
	ctx, cancel := context.WithTimeoutCause(f.Context(), deadline, errors.New("deadline"))
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.Fatal(err)
		}
	}
}

// TestDefaulting is what conformance demands of defaults: they apply to
// requests and to what is read from storage, and what was defaulted in a write
// stays.
func TestDefaulting(t *testing.T) {
	f := start(t)
	ctx := t.Context()
	f.define(strings.Replace(boats, "default: white, ", "", 1))
	c := f.boats("v1")
	f.create(c, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: old}, spec: {crew: 1}}`)
	setDefault := func(field string, value any) {
		f.change("boats.example.com", func(d *unstructured.Unstructured) {
			for name, s := range specOf(d) {
				if s := s.(map[string]any); name == field {
					s["default"] = value
				} else {
					delete(s, "default")
				}
			}
		})
	}
	spec := func(name string) map[string]any {
		u, err := c.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return u.Object["spec"].(map[string]any)
	}
	setDefault("color", "red")
	f.eventually(func() error {
		if got := spec("old"); got["color"] != "red" {
			return fmt.Errorf("read from storage: %v", got)
		}
		return nil
	})
	if u := f.create(c, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: new}, spec: {}}`); u.Object["spec"].(map[string]any)["color"] != "red" {
		t.Errorf("created: %v", u.Object["spec"])
	}
	setDefault("crew", int64(2))
	f.eventually(func() error {
		if got := spec("new"); got["crew"] != int64(2) || got["color"] != "red" {
			return fmt.Errorf("read from storage: %v", got)
		}
		return nil
	})
}

func TestDeprecatedVersion(t *testing.T) {
	f := start(t)
	f.define(strings.Replace(boats, "    served: true\n", "    served: true\n    deprecated: true\n", 1))
	got := warnings{}
	f.Config.WarningHandler = got
	d, err := dynamic.NewForConfig(f.Config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "boats"}).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if !got["example.com/v1 Boat is deprecated"] {
		t.Errorf("warnings are %v", got)
	}
}

type warnings map[string]bool

func (w warnings) HandleWarningHeader(_ int, _ string, text string) { w[text] = true }

func boatsGVR(version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "boats"}
}
