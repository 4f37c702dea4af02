package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestApply(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.namespace("applied")
	t.Run("ownership", s.applyOwnership)
	t.Run("lists", s.applyLists)
	t.Run("status", s.applyStatus)
	t.Run("scale", s.applyScale)
	t.Run("migration", s.applyMigration)
	t.Run("resource version", s.applyVersion)
	t.Run("managed fields", s.managedFields)
}

// apply sends an applied configuration.
func (s *server) apply(path, manager, body string, query ...string) answer {
	s.Helper()
	q := append([]string{"fieldManager", manager}, query...)
	return s.do(call{Method: "PATCH", Path: path + "?" + encode(q...), Type: applyPatch, Body: body})
}

// owned tells which fields a manager has, in the order of managedFields.
func owned(t *testing.T, obj *unstructured.Unstructured, manager string) string {
	t.Helper()
	var out []string
	for _, m := range obj.GetManagedFields() {
		if m.Manager != manager {
			continue
		}
		var set map[string]any
		if err := json.Unmarshal(m.FieldsV1.Raw, &set); err != nil {
			t.Fatal(err)
		}
		var walk func(prefix string, set map[string]any)
		walk = func(prefix string, set map[string]any) {
			for k, v := range set {
				if k == "." {
					continue
				}
				k = strings.TrimPrefix(k, "f:")
				if inner := v.(map[string]any); len(inner) > 0 {
					walk(prefix+k+".", inner)
				} else {
					out = append(out, prefix+k)
				}
			}
		}
		walk(strings.ToLower(string(m.Operation))+":", set)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (s *server) applyOwnership(t *testing.T) {
	s = s.in(t)
	path := "/api/v1/namespaces/applied/configmaps/owned"
	config := func(data string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owned}\ndata: " + data + "\n"
	}
	a := s.apply(path, "one", config("{a: '1', b: '1'}"))
	if a.Code != 201 {
		t.Fatalf("%d %s", a.Code, a.Body)
	}
	if got := owned(t, a.object(t), "one"); got != "apply:data.a apply:data.b" {
		t.Errorf("one owns %s", got)
	}
	// The same value is shared, another one is a conflict.
	if a := s.apply(path, "two", config("{a: '1', c: '2'}")); a.Code != 200 {
		t.Fatalf("%d %s", a.Code, a.Body)
	}
	a = s.apply(path, "two", config("{a: '2', b: '2', c: '2'}"))
	st := a.status(t)
	if a.Code != 409 || st.Reason != metav1.StatusReasonConflict || st.Message != "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.a\n- .data.b" {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	if c := st.Details.Causes; len(c) != 2 || c[0].Type != metav1.CauseTypeFieldManagerConflict || c[0].Field != ".data.a" || c[0].Message != `conflict with "one"` {
		t.Errorf("causes: %+v", c)
	}
	// By force the fields change hands.
	a = s.apply(path, "two", config("{a: '2', c: '2'}"), "force", "true")
	if one, two := owned(t, a.object(t), "one"), owned(t, a.object(t), "two"); one != "apply:data.b" || two != "apply:data.a apply:data.c" {
		t.Errorf("one: %s, two: %s", one, two)
	}
	// What its only owner gives up is removed, what others have stays.
	a = s.apply(path, "two", config("{a: '2'}"))
	if data := get(t, a.object(t), "data"); fmt.Sprint(data) != "map[a:2 b:1]" {
		t.Errorf("data: %v", data)
	}
	// Nothing new: the same revision, the same times.
	again := s.apply(path, "two", config("{a: '2'}"))
	if string(again.Body) != string(a.Body) {
		t.Errorf("applied twice:\n%s\n%s", a.Body, again.Body)
	}
	// An update takes what it changes.
	s.ok(200, call{Method: "PATCH", Path: path + "?fieldManager=three", Type: mergePatch, Body: `{"data":{"a":"3"}}`})
	a = s.ok(200, call{Method: "GET", Path: path})
	if two, three := owned(t, a.object(t), "two"), owned(t, a.object(t), "three"); two != "" || three != "update:data.a" {
		t.Errorf("two: %s, three: %s", two, three)
	}
	if a := s.apply(path, "two", config("{a: '2'}")); a.Code != 409 || !strings.Contains(a.status(t).Message, `conflict with "three" using v1 at `) && !strings.Contains(a.status(t).Message, `conflict with "three"`) {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	// A dry run tells what would be.
	a = s.apply(path, "four", config("{d: '4'}"), "dryRun", "All")
	if got := owned(t, a.object(t), "four"); got != "apply:data.d" {
		t.Errorf("four owns %q", got)
	}
	if data := get(t, s.ok(200, call{Method: "GET", Path: path}).object(t), "data"); fmt.Sprint(data) != "map[a:3 b:1]" {
		t.Errorf("data: %v", data)
	}
	for body, text := range map[string]string{
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owned, managedFields: []}\n":   "",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owned, managedFields: [{}]}\n": "metadata.managedFields must be nil",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: owned}\n":                         "",
		"apiVersion: v2\nkind: ConfigMap\nmetadata: {name: owned}\n":                      "invalid object type: /v2, Kind=ConfigMap",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n":                      "the name of the object (other) does not match the name on the URL (owned)",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owned, namespace: default}\n":  "does not match the namespace",
		"- not\n- an object\n": "error decoding YAML",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owned, uid: other}\ndata: {z: z}\n": "",
	} {
		a := s.apply(path, "bad", body)
		if a.Code < 400 || !strings.Contains(a.status(t).Message, text) || a.Code >= 500 {
			t.Errorf("%s: %d %s", body, a.Code, a.Body)
		}
	}
	// What does not fit the schema is upstream's error without a reason.
	for body, text := range map[string]string{
		"metadata: {name: owned, finalizers: [x/y, x/y]}\n":   "failed to create typed patch object (/owned; /v1, Kind=ConfigMap): .metadata.finalizers: duplicate entries for key [=\"x/y\"]",
		"metadata: {name: owned}\ndata: {a: {b: c}}\n":        `failed to create typed patch object (/owned; /v1, Kind=ConfigMap): .data.a: expected string, got &value.valueUnstructured{Value:map[string]interface {}{"b":"c"}}`,
		"metadata: {name: owned, unknown: 1}\n":               "failed to create typed patch object (/owned; /v1, Kind=ConfigMap): .metadata.unknown: field not declared in schema",
		"metadata: {name: owned, deletionTimestamp: \"5\"}\n": `failed to convert new object (/owned; /v1, Kind=ConfigMap) to proper version: unable to convert unstructured object to /v1, Kind=ConfigMap: parsing time "5" as "2006-01-02T15:04:05Z07:00": cannot parse "5" as "2006"`,
	} {
		a = s.apply(path, "bad", "apiVersion: v1\nkind: ConfigMap\n"+body)
		if st := a.status(t); a.Code != 500 || st.Reason != "" || st.Message != text {
			t.Errorf("%s: %d %s", body, a.Code, a.Body)
		}
	}
	if a = s.apply("/api/v1/namespaces/applied/configmaps/nameless", "bad", "apiVersion: v1\nkind: ConfigMap\n"); a.Code != 400 || a.status(t).Message != "the name of the object (nameless based on URL) was undeterminable: name must be provided" {
		t.Errorf("without a name: %d %s", a.Code, a.Body)
	}
}

// applyLists merges lists by their keys.
func (s *server) applyLists(t *testing.T) {
	s = s.in(t)
	path := "/apis/apps/v1/namespaces/applied/deployments/lists"
	config := func(containers string) string {
		return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: lists}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec:\n      containers: [" + containers + "]\n"
	}
	s.apply(path, "app", config("{name: main, image: i, ports: [{containerPort: 80}], env: [{name: A, value: '1'}]}"))
	a := s.apply(path, "mesh", config("{name: side, image: j}"))
	if a.Code != 200 {
		t.Fatalf("%d %s", a.Code, a.Body)
	}
	names := func(obj *unstructured.Unstructured) (out []string) {
		list, _ := get(t, obj, "spec", "template", "spec", "containers").([]any)
		for _, c := range list {
			out = append(out, fmt.Sprint(c.(map[string]any)["name"]))
		}
		return out
	}
	if got := names(a.object(t)); fmt.Sprint(got) != "[main side]" {
		t.Errorf("containers %v", got)
	}
	// The author of main adds a variable and another port; the protocol is part
	// of a port's key and defaulted.
	a = s.apply(path, "app", config("{name: main, image: i, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}], env: [{name: B, value: '2'}]}"))
	main := get(t, a.object(t), "spec", "template", "spec", "containers").([]any)[0].(map[string]any)
	if env := fmt.Sprint(main["env"]); env != "[map[name:B value:2]]" || len(main["ports"].([]any)) != 2 {
		t.Errorf("main: %v", main)
	}
	a = s.apply(path, "app", config("{name: new, image: k}"))
	if got := names(a.object(t)); len(got) != 2 || !slices.Contains(got, "new") || !slices.Contains(got, "side") {
		t.Errorf("containers %v", got)
	}
}

// applyStatus: the status has its own managers, and the rest of what they send
// is not theirs.
func (s *server) applyStatus(t *testing.T) {
	s = s.in(t)
	path := "/api/v1/namespaces/applied/pods/st"
	s.serviceAccount("applied")
	s.apply(path, "user", "apiVersion: v1\nkind: Pod\nmetadata: {name: st}\nspec: {containers: [{name: c, image: i}]}\nstatus: {message: mine}\n")
	obj := s.ok(200, call{Method: "GET", Path: path}).object(t)
	if got := owned(t, obj, "user"); strings.Contains(got, "status") || get(t, obj, "status", "message") != nil {
		t.Errorf("user: %s", got)
	}
	a := s.apply(path+"/status", "kubelet", "apiVersion: v1\nkind: Pod\nmetadata: {name: st}\nspec: {nodeName: x}\nstatus: {message: text, conditions: [{type: Ready, status: 'True'}]}\n")
	if got := owned(t, a.object(t), "kubelet"); a.Code != 200 || strings.Contains(got, "spec") || !strings.Contains(got, "apply:status.message") {
		t.Errorf("kubelet: %d %s", a.Code, got)
	}
	for _, m := range a.object(t).GetManagedFields() {
		if (m.Manager == "kubelet") != (m.Subresource == "status") {
			t.Errorf("manager: %+v", m)
		}
	}
	a = s.apply(path+"/status", "gate", "apiVersion: v1\nkind: Pod\nmetadata: {name: st}\nstatus: {conditions: [{type: example.com/gate, status: 'False'}]}\n")
	if got := get(t, a.object(t), "status", "conditions").([]any); len(got) < 2 {
		t.Errorf("conditions: %v", got)
	}
}

// applyScale: a horizontal scaler owns replicas through the scale subresource.
func (s *server) applyScale(t *testing.T) {
	s = s.in(t)
	path := "/apis/apps/v1/namespaces/applied/deployments/scaled"
	config := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: scaled}\nspec:\n  replicas: 1\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec: {containers: [{name: c, image: i}]}\n"
	s.apply(path, "user", config)
	s.ok(200, call{Method: "PATCH", Path: path + "/scale?fieldManager=hpa", Type: mergePatch, Body: `{"spec":{"replicas":5}}`})
	obj := s.ok(200, call{Method: "GET", Path: path}).object(t)
	if got := owned(t, obj, "hpa"); got != "update:spec.replicas" || strings.Contains(owned(t, obj, "user"), "replicas") {
		t.Errorf("hpa owns %q, user %q", got, owned(t, obj, "user"))
	}
	for _, m := range obj.GetManagedFields() {
		if m.Manager == "hpa" && (m.Subresource != "scale" || m.APIVersion != "apps/v1") {
			t.Errorf("hpa: %+v", m)
		}
	}
	if a := s.apply(path, "user", config); a.Code != 409 || !strings.Contains(a.status(t).Message, `conflict with "hpa" with subresource "scale" using apps/v1`) {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	// Without replicas in its configuration the user has no conflict.
	if a := s.apply(path, "user", strings.Replace(config, "  replicas: 1\n", "", 1)); a.Code != 200 || get(t, a.object(t), "spec", "replicas") != int64(5) {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	// The scale itself can be applied, with its own conflicts.
	scale := "apiVersion: autoscaling/v1\nkind: Scale\nmetadata: {name: scaled}\nspec: {replicas: 7}\n"
	if a := s.apply(path+"/scale", "other", scale); a.Code != 409 || !strings.Contains(a.status(t).Message, `.spec.replicas`) {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	if a := s.apply(path+"/scale", "other", scale, "force", "true"); a.Code != 200 || get(t, a.object(t), "spec", "replicas") != int64(7) {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	if got := owned(t, s.ok(200, call{Method: "GET", Path: path}).object(t), "other"); got != "apply:spec.replicas" {
		t.Errorf("other owns %q", got)
	}
}

// applyMigration: what kubectl's client-side apply wrote is taken over by its
// server-side apply, by the annotation that the former leaves.
func (s *server) applyMigration(t *testing.T) {
	s = s.in(t)
	path := "/api/v1/namespaces/applied/configmaps"
	last := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"annotations":{},"name":"migrated","namespace":"applied"},"data":{"key":"value","legacy":"unused"}}`
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "migrated", "annotations": map[string]any{"kubectl.kubernetes.io/last-applied-configuration": last}},
		"data": map[string]any{"key": "value", "legacy": "unused"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.ok(201, call{Method: "POST", Path: path + "?fieldManager=kubectl-client-side-apply", Body: string(body)})
	config := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: migrated}\ndata: {key: new}\n"
	if a := s.apply(path+"/migrated", "other", config); a.Code != 409 {
		t.Errorf("somebody else: %d %s", a.Code, a.Body)
	}
	a := s.apply(path+"/migrated", "kubectl", config)
	if a.Code != 200 {
		t.Fatalf("%d %s", a.Code, a.Body)
	}
	if data := get(t, a.object(t), "data", "key"); data != "new" {
		t.Errorf("data: %v", data)
	}
}

func (s *server) applyVersion(t *testing.T) {
	s = s.in(t)
	obj := s.configMap("applied", "versioned", "1")
	s.patchKey("applied", "versioned", "2")
	path := "/api/v1/namespaces/applied/configmaps/"
	config := func(name, meta string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", " + meta + "}\n"
	}
	if a := s.apply(path+"versioned", "m", config("versioned", "resourceVersion: '"+obj.GetResourceVersion()+"'")); a.Code != 409 || a.status(t).Reason != metav1.StatusReasonConflict {
		t.Errorf("stale: %d %s", a.Code, a.Body)
	}
	// The version that is applied is not always the one that is stored.
	event := "apiVersion: events.k8s.io/v1\nkind: Event\nmetadata: {name: e}\neventTime: '2024-01-01T00:00:00.000000Z'\nreportingController: example.com/c\n" +
		"reportingInstance: c-1\naction: Doing\nreason: Testing\ntype: Normal\nregarding: {kind: Pod, namespace: applied, name: p}\n"
	if a := s.apply("/apis/events.k8s.io/v1/namespaces/applied/events/e", "m", event); a.Code != 201 {
		t.Errorf("an event of another version: %d %s", a.Code, a.Body)
	}
	if a := s.apply(path+"absent", "m", config("absent", "uid: abc")); a.Code != 409 || !strings.Contains(a.status(t).Message, "uid mismatch: the provided object specified uid abc, and no existing object was found") {
		t.Errorf("absent: %d %s", a.Code, a.Body)
	}
	// As with upstream, there is no version to compare with.
	s.ok(201, call{Method: "PATCH", Path: path + "absent?fieldManager=m", Type: applyPatch, Body: config("absent", "resourceVersion: '5'")})
}

// managedFields can be reset by writers, and are kept otherwise.
func (s *server) managedFields(t *testing.T) {
	s = s.in(t)
	path := "/api/v1/namespaces/applied/configmaps/managed"
	obj := s.configMap("applied", "managed", "1")
	if m := obj.GetManagedFields(); len(m) != 1 || m[0].Manager != "Go-http-client" || m[0].Operation != "Update" || m[0].Time == nil || m[0].FieldsType != "FieldsV1" {
		t.Errorf("created: %+v", m)
	}
	before, _ := json.Marshal(obj.GetManagedFields())
	for _, body := range []string{`{"metadata":{"managedFields":null}}`, `{"metadata":{"managedFields":[{"manager":"x"}]}}`} {
		s.do(call{Method: "PATCH", Path: path, Type: mergePatch, Body: body})
	}
	now := s.ok(200, call{Method: "GET", Path: path}).object(t)
	after, _ := json.Marshal(now.GetManagedFields())
	if string(before) != string(after) {
		t.Errorf("before %s, after %s", before, after)
	}
	s.ok(200, call{Method: "PATCH", Path: path + "?fieldManager=m", Type: mergePatch, Body: `{"metadata":{"managedFields":[{}]}}`})
	if m := s.ok(200, call{Method: "GET", Path: path}).object(t).GetManagedFields(); len(m) != 0 {
		t.Errorf("reset: %+v", m)
	}
}
