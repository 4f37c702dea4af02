package crd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
)

func TestScaleOfIncompleteObjects(t *testing.T) {
	f := start(t)
	f.define(boats)
	c, ctx := f.boats("v1"), t.Context()
	f.create(c, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: a}, spec: {}}`)
	if _, err := c.Get(ctx, "a", metav1.GetOptions{}, "scale"); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `the spec replicas field ".spec.crew" does not exist`) {
		t.Errorf("reading the scale: %v", err)
	}
	scale := func(body string) error {
		_, err := c.Patch(ctx, "a", types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "scaler"}, "scale")
		return err
	}
	if err := scale(`{"metadata":{"labels":{"a":"b"}}}`); !apierrors.IsBadRequest(err) || err.Error() != `the spec replicas field ".spec.crew" cannot be empty` {
		t.Errorf("a patch that leaves the replicas unset: %v", err)
	}
	if err := scale(`{"spec":{"replicas":3}}`); err != nil {
		t.Fatal(err)
	}
	f.create(c, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: b}, spec: {crew: 1}}`)
	if _, err := c.Patch(ctx, "b", types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{FieldManager: "scaler"}, "scale"); err != nil {
		t.Fatal(err)
	}
	u, err := c.Get(ctx, "b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(u.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool { return m.Manager == "scaler" })
	if i < 0 || u.GetManagedFields()[i].Subresource != "scale" || string(u.GetManagedFields()[i].FieldsV1.Raw) != `{"f:spec":{"f:crew":{}}}` {
		t.Errorf("who scaled owns %+v", u.GetManagedFields())
	}
}

// TestPatchErrors compares the codes and messages of patches that make no
// object of the kind.
func TestPatchErrors(t *testing.T) {
	f := start(t)
	f.define(boats)
	c := f.boats("v1")
	f.create(c, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: a}, spec: {}}`)
	for name, test := range map[string]struct {
		kind types.PatchType
		body string
		code int32
		want string
	}{
		"unknown field":      {types.MergePatchType, `{"spec":{"odd":1}}`, http.StatusUnprocessableEntity, `strict decoding error: unknown field "spec.odd"`},
		"duplicate field":    {types.MergePatchType, `{"spec":{"crew":1,"crew":2}}`, http.StatusUnprocessableEntity, `strict decoding error: duplicate field "spec.crew"`},
		"unknown operation":  {types.JSONPatchType, `[{"op":"add","path":"/spec/crew","value":1,"odd":1}]`, http.StatusUnprocessableEntity, `strict decoding error: json patch unknown field "[0].odd"`},
		"no kind":            {types.MergePatchType, `{"kind":null}`, http.StatusUnprocessableEntity, `Object 'Kind' is missing in`},
		"other kind":         {types.MergePatchType, `{"kind":"Ship"}`, http.StatusUnprocessableEntity, `kind: Invalid value: "Ship": must be Boat`},
		"other version":      {types.MergePatchType, `{"apiVersion":"example.com/v7"}`, http.StatusUnprocessableEntity, `apiVersion: Invalid value: "example.com/v7": must be example.com/v1`},
		"malformed metadata": {types.MergePatchType, `{"metadata":{"labels":{"a":1}}}`, http.StatusUnprocessableEntity, `json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string`},
		"no patch":           {types.MergePatchType, `{`, http.StatusBadRequest, ``},
		"duplicate applied":  {types.ApplyPatchType, "apiVersion: example.com/v1\nkind: Boat\nspec: {crew: 1, crew: 2}\n", http.StatusBadRequest, `key "crew" already set in map`},
		"unknown applied":    {types.ApplyPatchType, `{"apiVersion":"example.com/v1","kind":"Boat","spec":{"odd":1}}`, http.StatusInternalServerError, `.spec.odd: field not declared in schema`},
	} {
		o := metav1.PatchOptions{FieldValidation: metav1.FieldValidationStrict, FieldManager: "test"}
		_, err := c.Patch(t.Context(), "a", test.kind, []byte(test.body), o)
		var status *apierrors.StatusError
		if !errors.As(err, &status) || status.ErrStatus.Code != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want code %d and %s", name, err, test.code, test.want)
		}
	}
}

func TestTerminatingDefinition(t *testing.T) {
	f := start(t)
	f.define(boats)
	c := f.boats("v1")
	f.create(c, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: held, finalizers: [example.com/hold]}}`)
	if err := f.dynamic.Resource(crds).Delete(t.Context(), "boats.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	d, err := discovery.NewDiscoveryClientForConfig(f.Config)
	if err != nil {
		t.Fatal(err)
	}
	f.eventually(func() error {
		list, err := d.ServerResourcesForGroupVersion("example.com/v1")
		if err != nil {
			return err
		}
		if got := list.APIResources[0].Verbs.String(); got != "[delete deletecollection get list watch]" {
			return fmt.Errorf("discovery says %s", got)
		}
		return nil
	})
	force := true
	_, err = c.Patch(t.Context(), "new", types.ApplyPatchType, []byte(`{"apiVersion":"example.com/v1","kind":"Boat","metadata":{"name":"new"}}`), metav1.PatchOptions{FieldManager: "x", Force: &force})
	if !apierrors.IsMethodNotSupported(err) || err.Error() != "create not allowed while custom resource definition is terminating" {
		t.Errorf("creating by apply: %v", err)
	}
	if _, err := c.Patch(t.Context(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("letting go: %v", err)
	}
}

// remove deletes the definition and waits until it is gone.
func (f *fixture) remove(name string) {
	f.Helper()
	gone, err := f.dynamic.Resource(crds).Watch(f.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		f.Fatal(err)
	}
	defer gone.Stop()
	if err := f.dynamic.Resource(crds).Delete(f.Context(), name, metav1.DeleteOptions{}); err != nil {
		f.Fatal(err)
	}
	for ev := range gone.ResultChan() {
		if ev.Type == watch.Deleted {
			return
		}
	}
	f.Fatalf("%s is never gone", name)
}

// TestCleanupDuringCreation deletes definitions while objects are being
// created, and looks whether some are left when the definition is back.
func TestCleanupDuringCreation(t *testing.T) {
	f := start(t)
	for round := range 5 {
		f.define(boats)
		c := f.boats("v1")
		var creators sync.WaitGroup
		for i := range 4 {
			creators.Go(func() {
				for n := 0; ; n++ {
					_, err := c.Create(t.Context(), parse(t, fmt.Sprintf(`{apiVersion: example.com/v1, kind: Boat, metadata: {name: b-%d-%d}}`, i, n)), metav1.CreateOptions{})
					if err != nil {
						if !apierrors.IsMethodNotSupported(err) && !apierrors.IsNotFound(err) {
							t.Errorf("creating: %v", err)
						}
						return
					}
				}
			})
		}
		f.remove("boats.example.com")
		creators.Wait()
		f.define(boats)
		if list, err := c.List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) > 0 {
			t.Fatalf("round %d: left are %d objects, %v", round, len(list.Items), err)
		}
		f.remove("boats.example.com")
	}
}

func TestNameConflicts(t *testing.T) {
	f := start(t)
	f.define(strings.Replace(boats, "[bo]", "[bo, bt]", 1))
	for name, test := range map[string]struct{ names, reason, message string }{
		"rafts": {`{plural: rafts, kind: Raft, shortNames: [bt, bo]}`, "ShortNamesConflict", `["bt" is already in use, "bo" is already in use]`},
		"arks":  {`{plural: arks, kind: Boat, singular: ark, listKind: ArkList}`, "KindConflict", `"Boat" is already in use`},
		"junks": {`{plural: junks, kind: Junk, singular: boat}`, "SingularConflict", `"boat" is already in use`},
		"hulks": {`{plural: hulks, kind: Hulk, listKind: BoatList}`, "ListKindConflict", `"BoatList" is already in use`},
		"bo":    {`{plural: bo, kind: Skow}`, "PluralConflict", `"bo" is already in use`},
	} {
		d := parse(t, strings.ReplaceAll(boats, "boats.example.com", name+".example.com"))
		d.Object["spec"].(map[string]any)["names"] = parse(t, "apiVersion: v1\nkind: X\nnames: "+test.names).Object["names"]
		if _, err := f.dynamic.Resource(crds).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		d = f.await(name+".example.com", "NamesAccepted", "False")
		if got := conditionOf(d, "NamesAccepted"); got["reason"] != test.reason || got["message"] != test.message {
			t.Errorf("%s: %v, want %s: %s", name, got, test.reason, test.message)
		}
		if got := conditionOf(d, "Established"); got["status"] != "False" || got["reason"] != "NotAccepted" || got["message"] != "not all names are accepted" {
			t.Errorf("%s: Established is %v", name, got)
		}
	}
	// A name that is given up is free for others; what is established stays so.
	f.change("boats.example.com", func(d *unstructured.Unstructured) {
		d.Object["spec"].(map[string]any)["names"].(map[string]any)["shortNames"] = []any{"new"}
	})
	freed := f.await("bo.example.com", "Established", "True")
	if accepted, _ := json.Marshal(freed.Object["status"].(map[string]any)["acceptedNames"]); !strings.Contains(string(accepted), `"plural":"bo"`) {
		t.Errorf("accepted are %s", accepted)
	}
}

// TestChangeAfterDeletion changes a definition while the cache remembers the
// deletion of an object, whose last state it decodes by the new schema.
func TestChangeAfterDeletion(t *testing.T) {
	f := start(t)
	f.define(boats)
	u := f.create(f.boats("v1"), `{apiVersion: example.com/v1, kind: Boat, metadata: {name: a}}`)
	if err := f.boats("v1").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.change("boats.example.com", func(d *unstructured.Unstructured) { specOf(d)["length"] = map[string]any{"type": "integer"} })
	f.eventually(func() error {
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		got, err := f.boats("v1").Create(ctx, parse(t, `{apiVersion: example.com/v1, kind: Boat, metadata: {generateName: b}, spec: {length: 3}}`), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if spec, _ := got.Object["spec"].(map[string]any); spec["length"] == nil {
			return errors.New("the new property is not there yet")
		}
		return nil
	})
	w, err := f.boats("v1").Watch(t.Context(), metav1.ListOptions{ResourceVersion: u.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if ev := <-w.ResultChan(); ev.Type != watch.Deleted || ev.Object.(*unstructured.Unstructured).GetName() != "a" {
		t.Errorf("after the creation came %s %v", ev.Type, ev.Object)
	}
}
