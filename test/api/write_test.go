package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.namespace("writes")
	s.serviceAccount("writes")
	t.Run("field validation", s.fieldValidation)
	t.Run("refusals", s.refusals)
	t.Run("names", s.names)
	t.Run("generation", s.generation)
	t.Run("dry run", s.dryRun)
	t.Run("node ports", s.nodePorts)
	t.Run("preconditions", s.preconditions)
	t.Run("races", s.races)
	t.Run("wire", s.wire)
	t.Run("versions", s.versions)
}

const (
	mergePatch     = "application/merge-patch+json"
	jsonPatch      = "application/json-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
	applyPatch     = "application/apply-patch+yaml"
)

const deployment = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"%s"},"spec":{"replicas":1,"replicas":2,"unknown":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","unknownNested":"x","imagePullPolicy":"Always","imagePullPolicy":"Never"}]}}}}`

func (s *server) fieldValidation(t *testing.T) {
	s = s.in(t)
	path := "/apis/apps/v1/namespaces/writes/deployments"
	texts := []string{
		`unknown field "spec.template.spec.containers[0].unknownNested"`, `unknown field "spec.unknown"`,
		`duplicate field "spec.replicas"`, `duplicate field "spec.template.spec.containers[0].imagePullPolicy"`,
	}
	warned := func(a answer, texts ...string) {
		t.Helper()
		got := strings.Join(a.Header.Values("Warning"), "\n")
		for _, text := range texts {
			if !strings.Contains(got, `299 - "`+strings.ReplaceAll(text, `"`, `\"`)+`"`) {
				t.Errorf("no warning of %s in %s", text, got)
			}
		}
		if len(a.Header.Values("Warning")) != len(texts) {
			t.Errorf("warnings: %s", got)
		}
	}
	body := fmt.Sprintf(deployment, "strict")
	a := s.do(call{Method: "POST", Path: path + "?fieldValidation=Strict", Body: body})
	st := a.status(t)
	if a.Code != 400 || st.Reason != metav1.StatusReasonBadRequest || !strings.HasPrefix(st.Message, `Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: `) {
		t.Errorf("strict: %d %s", a.Code, a.Body)
	}
	for _, text := range texts {
		if !strings.Contains(st.Message, text) {
			t.Errorf("strict: no %s in %s", text, st.Message)
		}
	}
	warned(s.ok(201, call{Method: "POST", Path: path + "?fieldValidation=Warn", Body: fmt.Sprintf(deployment, "warn")}), texts...)
	warned(s.ok(201, call{Method: "POST", Path: path, Body: fmt.Sprintf(deployment, "plain")}), texts...)
	ignored := s.ok(201, call{Method: "POST", Path: path + "?fieldValidation=Ignore", Body: fmt.Sprintf(deployment, "ignore")})
	warned(ignored)
	if get(t, ignored.object(t), "spec", "replicas") != int64(2) {
		t.Errorf("the last of two wins: %s", ignored.Body)
	}
	if a := s.do(call{Method: "POST", Path: path + "?fieldValidation=Loud", Body: body}); a.Code != 422 || !strings.Contains(a.status(t).Message, `fieldValidation: Unsupported value: "Loud"`) {
		t.Errorf("nonsense: %d %s", a.Code, a.Body)
	}

	yamlBody := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: dup}\ndata: {a: b}\ndata: {c: d}\nfoo: 1\n"
	maps := "/api/v1/namespaces/writes/configmaps"
	a = s.do(call{Method: "POST", Path: maps + "?fieldValidation=Strict", Body: yamlBody, Type: mediaYAML})
	if a.Code != 400 || !strings.Contains(a.status(t).Message, `key "data" already set in map`) || !strings.Contains(a.status(t).Message, `unknown field "foo"`) {
		t.Errorf("strict YAML: %d %s", a.Code, a.Body)
	}

	s.ok(201, call{Method: "POST", Path: maps, Body: `{"metadata":{"name":"patched"}}`})
	for _, p := range []struct{ media, body, text string }{
		{mergePatch, `{"foo":"bar","data":{"k":"1","k":"2"}}`, `duplicate field "data.k"`},
		{strategicPatch, `{"foo":"bar","data":{"k":"1","k":"2"}}`, `duplicate field "data.k"`},
		{jsonPatch, `[{"op":"add","path":"/foo","value":"bar","path":"/foo"}]`, `json patch duplicate field "[0].path"`},
		{applyPatch, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: patched}\nfoo: bar\n", `.foo: field not declared in schema`},
	} {
		text := p.text
		a := s.do(call{Method: "PATCH", Path: maps + "/patched?fieldManager=m&fieldValidation=Strict", Type: p.media, Body: p.body})
		want := 422
		if p.media == applyPatch {
			want = 500 // as upstream
		}
		if a.Code != want || !strings.Contains(a.status(t).Message, text) {
			t.Errorf("strict %s: %d %s", p.media, a.Code, a.Body)
		}
		if p.media != applyPatch {
			if !strings.Contains(a.status(t).Message, `unknown field "foo"`) {
				t.Errorf("strict %s: %d %s", p.media, a.Code, a.Body)
			}
			warned(s.ok(200, call{Method: "PATCH", Path: maps + "/patched?fieldManager=m&fieldValidation=Warn", Type: p.media, Body: p.body}), `unknown field "foo"`, text)
			warned(s.ok(200, call{Method: "PATCH", Path: maps + "/patched?fieldManager=m&fieldValidation=Ignore", Type: p.media, Body: p.body}))
		}
	}
}

// refusals are requests that must fail, with upstream's status and reason.
func (s *server) refusals(t *testing.T) {
	s = s.in(t)
	maps := "/api/v1/namespaces/writes/configmaps"
	s.configMap("writes", "here", "1")
	big := strings.Repeat("x", 3<<20)
	for what, c := range map[string]struct {
		call
		code   int
		reason metav1.StatusReason
		text   string
	}{
		"no object":          {call{Method: "GET", Path: maps + "/absent"}, 404, "NotFound", `configmaps "absent" not found`},
		"no resource":        {call{Method: "GET", Path: "/api/v1/nonsense"}, 404, "NotFound", "the server could not find the requested resource"},
		"no version":         {call{Method: "GET", Path: "/apis/apps/v1beta1/deployments"}, 404, "NotFound", "the server could not find the requested resource"},
		"no subresource":     {call{Method: "GET", Path: maps + "/here/scale"}, 404, "NotFound", "the server could not find the requested resource"},
		"exists":             {call{Method: "POST", Path: maps, Body: `{"metadata":{"name":"here"}}`}, 409, "AlreadyExists", `configmaps "here" already exists`},
		"method":             {call{Method: "POST", Path: maps + "/here", Body: `{"metadata":{"name":"here"}}`}, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource"},
		"method all over":    {call{Method: "PUT", Path: "/api/v1/configmaps", Body: `{}`}, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource"},
		"options":            {call{Method: "OPTIONS", Path: maps}, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource"},
		"method collection":  {call{Method: "PUT", Path: maps, Body: `{}`}, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource"},
		"accept":             {call{Method: "GET", Path: maps, Accept: "text/html"}, 406, "NotAcceptable", "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		"table of what":      {call{Method: "GET", Path: maps, Accept: "application/json;as=Chair;v=v1;g=meta.k8s.io"}, 406, "NotAcceptable", "only the following media types are accepted"},
		"content type":       {call{Method: "POST", Path: maps, Body: "x", Type: "text/plain"}, 415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		"patch type":         {call{Method: "PATCH", Path: maps + "/here", Body: "{}", Type: mediaJSON}, 415, "UnsupportedMediaType", "415: Unsupported Media Type"},
		"CBOR":               {call{Method: "POST", Path: maps, Body: "x", Type: "application/cbor"}, 415, "UnsupportedMediaType", "unknown format"},
		"no JSON":            {call{Method: "POST", Path: maps, Body: "{"}, 400, "BadRequest", "the object provided is unrecognized (must be of type ConfigMap): "},
		"wrong type":         {call{Method: "POST", Path: maps, Body: `{"kind":"ConfigMap","apiVersion":"v1","data":7}`}, 400, "BadRequest", `ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data`},
		"wrong kind":         {call{Method: "POST", Path: maps, Body: `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}`}, 400, "BadRequest", `Secret in version "v1" cannot be handled as a ConfigMap`},
		"wrong version":      {call{Method: "POST", Path: maps, Body: `{"kind":"ConfigMap","apiVersion":"v2","metadata":{"name":"x"}}`}, 400, "BadRequest", `ConfigMap in version "v2" cannot be handled as a ConfigMap: no kind "ConfigMap" is registered for version "v2" in scheme "pkg/runtime/scheme.go:111"`},
		"wrong namespace":    {call{Method: "POST", Path: maps, Body: `{"metadata":{"name":"x","namespace":"default"}}`}, 400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request"},
		"wrong name":         {call{Method: "PUT", Path: maps + "/here", Body: `{"metadata":{"name":"there"}}`}, 400, "BadRequest", "the name of the object (there) does not match the name on the URL (here)"},
		"no name":            {call{Method: "PUT", Path: maps + "/here", Body: `{"metadata":{}}`}, 400, "BadRequest", "the name of the object (here based on URL) was undeterminable: name must be provided"},
		"other namespace":    {call{Method: "PUT", Path: maps + "/here", Body: `{"metadata":{"name":"here","namespace":"default"}}`}, 400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request"},
		"name and generate":  {call{Method: "POST", Path: maps, Body: `{"metadata":{}}`}, 422, "Invalid", "name or generateName is required"},
		"version on create":  {call{Method: "POST", Path: maps, Body: `{"metadata":{"name":"x","resourceVersion":"1"}}`}, 500, "", "resourceVersion should not be set on objects to be created"},
		"too large":          {call{Method: "POST", Path: maps, Body: `{"data":{"a":"` + big + `"}}`}, 413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728"},
		"too large a value":  {call{Method: "POST", Path: maps, Body: `{"metadata":{"name":"x"},"data":{"a":"` + big[:1<<20+1] + `"}}`}, 422, "Invalid", "Too long: may not be more than 1048576 bytes"},
		"protobuf":           {call{Method: "POST", Path: maps, Body: "nonsense", Type: mediaProtobuf}, 400, "BadRequest", "provided data does not appear to be a protobuf message"},
		"bad dry run":        {call{Method: "POST", Path: maps + "?dryRun=Some", Body: `{"metadata":{"name":"x"}}`}, 422, "Invalid", `dryRun: Unsupported value: ["Some"]`},
		"bad manager":        {call{Method: "POST", Path: maps + "?fieldManager=%01", Body: `{"metadata":{"name":"x"}}`}, 422, "Invalid", `fieldManager: Invalid value: "\x01": invalid character U+0001`},
		"bad policy":         {call{Method: "DELETE", Path: maps + "/here?propagationPolicy=Never"}, 422, "Invalid", `propagationPolicy: Unsupported value: "Never"`},
		"two policies":       {call{Method: "DELETE", Path: maps + "/here?propagationPolicy=Orphan&orphanDependents=true"}, 422, "Invalid", "orphanDependents and deletionPropagation cannot be both set"},
		"bad grace":          {call{Method: "DELETE", Path: maps + "/here?gracePeriodSeconds=x"}, 400, "BadRequest", "invalid syntax"},
		"bad options":        {call{Method: "DELETE", Path: maps + "/here", Body: `{"gracePeriodSeconds":"x"}`}, 400, "BadRequest", "cannot unmarshal string"},
		"apply nameless":     {call{Method: "PATCH", Path: maps + "/here", Type: applyPatch, Body: "apiVersion: v1\nkind: ConfigMap\n"}, 422, "Invalid", "fieldManager: Required value: is required for apply patch"},
		"force a merge":      {call{Method: "PATCH", Path: maps + "/here?force=true", Type: mergePatch, Body: "{}"}, 422, "Invalid", "force: Forbidden: may not be specified for non-apply patch"},
		"patch of nothing":   {call{Method: "PATCH", Path: maps + "/absent", Type: mergePatch, Body: "{}"}, 404, "NotFound", `configmaps "absent" not found`},
		"patch test fails":   {call{Method: "PATCH", Path: maps + "/here", Type: jsonPatch, Body: `[{"op":"test","path":"/data/key","value":"2"}]`}, 422, "Invalid", "the server rejected our request due to an error in our request"},
		"patch nowhere":      {call{Method: "PATCH", Path: maps + "/here", Type: jsonPatch, Body: `[{"op":"remove","path":"/data/none"}]`}, 422, "Invalid", "the server rejected our request due to an error in our request"},
		"patch no JSON":      {call{Method: "PATCH", Path: maps + "/here", Type: mergePatch, Body: `{`}, 400, "BadRequest", "error decoding patch"},
		"patch type of data": {call{Method: "PATCH", Path: maps + "/here", Type: mergePatch, Body: `{"data":[]}`}, 422, "Invalid", "cannot unmarshal array into Go struct field ConfigMap.data"},
		"patch name":         {call{Method: "PATCH", Path: maps + "/here", Type: mergePatch, Body: `{"metadata":{"name":"there"}}`}, 400, "BadRequest", "the name of the object (there) does not match the name on the URL (here)"},
		"stale patch":        {call{Method: "PATCH", Path: maps + "/here", Type: mergePatch, Body: `{"metadata":{"resourceVersion":"1"}}`}, 409, "Conflict", `Operation cannot be fulfilled on configmaps "here": the object has been modified; please apply your changes to the latest version and try again`},
		"bad binding":        {call{Method: "POST", Path: "/api/v1/namespaces/writes/pods/absent/binding", Body: `{"metadata":{"name":"absent"},"target":{"name":"n"}}`}, 404, "NotFound", `pods "absent" not found`},
		"nameless binding":   {call{Method: "POST", Path: "/api/v1/namespaces/writes/pods/absent/binding", Body: `{"target":{"name":"n"}}`}, 400, "BadRequest", "name in URL does not match name in Binding object"},
		"forbidden":          {call{Method: "GET", Path: maps, User: "nobody"}, 403, "Forbidden", `configmaps is forbidden: User "nobody" cannot list resource "configmaps" in API group "" in the namespace "writes"`},
		"forbidden path":     {call{Method: "GET", Path: "/metrics", User: "nobody"}, 403, "Forbidden", `forbidden: User "nobody" cannot get path "/metrics"`},
	} {
		a := s.do(c.call)
		if a.Code != c.code || a.Code < 400 {
			t.Errorf("%s: %d %s", what, a.Code, bytes.TrimSpace(a.Body[:min(len(a.Body), 400)]))
			continue
		}
		st := a.status(t)
		if st.Reason != c.reason || !strings.Contains(st.Message, c.text) || st.Status != metav1.StatusFailure || st.Code != int32(c.code) {
			t.Errorf("%s: %s %q", what, st.Reason, st.Message)
		}
	}
	// What nobody answers for is not found by the last handler of all.
	for _, path := range []string{"/nonsense", "/apis/example.com/v1/things"} {
		if a := s.do(call{Method: "GET", Path: path}); a.Code != 404 || string(a.Body) != "404 page not found\n" {
			t.Errorf("%s: %d %s", path, a.Code, a.Body)
		}
	}
	if a := s.do(call{Method: "HEAD", Path: maps + "/here"}); a.Code != 405 {
		t.Errorf("HEAD: %d", a.Code)
	}
	anonymous := rest.AnonymousClientConfig(s.Config)
	hc, err := rest.HTTPClientFor(anonymous)
	if err != nil {
		t.Fatal(err)
	}
	defer hc.CloseIdleConnections()
	a := s.do(call{Method: "GET", Path: maps, Client: hc, Header: map[string]string{"Authorization": "Bearer nonsense"}})
	if st := a.status(t); a.Code != 401 || st.Reason != "Unauthorized" || st.Message != "Unauthorized" {
		t.Errorf("a bad token: %d %s", a.Code, a.Body)
	}
	if a := s.do(call{Method: "GET", Path: maps, Client: hc}); a.Code != 403 || !strings.Contains(a.status(t).Message, `User "system:anonymous" cannot list resource`) {
		t.Errorf("anonymous: %d %s", a.Code, a.Body)
	}
	// Nothing was written by any of them.
	if got := s.list(maps, "fieldSelector", "metadata.name=x").names(); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

func (s *server) names(t *testing.T) {
	s = s.in(t)
	maps := "/api/v1/namespaces/writes/configmaps"
	label := func(key, value string) string {
		return `{"metadata":{"name":"m","labels":{"` + key + `":"` + value + `"}}}`
	}
	for what, c := range map[string]struct{ body, text string }{
		"upper case":     {`{"metadata":{"name":"Upper"}}`, `metadata.name: Invalid value: "Upper": a lowercase RFC 1123 subdomain must consist of`},
		"long":           {`{"metadata":{"name":"` + strings.Repeat("a", 254) + `"}}`, "must be no more than 253"},
		"slash":          {`{"metadata":{"name":"a/b"}}`, "metadata.name: Invalid value"},
		"generate":       {`{"metadata":{"generateName":"Upper-"}}`, `metadata.generateName: Invalid value: "Upper-"`},
		"label key":      {label("-bad", "x"), `metadata.labels: Invalid value: "-bad": name part must consist of alphanumeric characters`},
		"long label key": {label(strings.Repeat("a", 64), "x"), "name part must be no more than 63"},
		"label value":    {label("a", strings.Repeat("x", 64)), "must be no more than 63"},
		"label prefix":   {label("UPPER/x", "x"), "prefix part a lowercase RFC 1123 subdomain"},
		"annotation key": {`{"metadata":{"name":"m","annotations":{"a/b/c":"x"}}}`, `metadata.annotations: Invalid value: "a/b/c"`},
		"annotations":    {`{"metadata":{"name":"m","annotations":{"a":"` + strings.Repeat("x", 256<<10) + `"}}}`, "metadata.annotations: Too long: may not be more than 262144 bytes"},
		"finalizer":      {`{"metadata":{"name":"m","finalizers":["bad name"]}}`, "metadata.finalizers"},
		"owner":          {`{"metadata":{"name":"m","ownerReferences":[{"apiVersion":"v1","kind":"","name":"x","uid":"y"}]}}`, "metadata.ownerReferences.kind: Invalid value"},
		"two controllers": {`{"metadata":{"name":"m","ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"x","uid":"x","controller":true},{"apiVersion":"v1","kind":"Pod","name":"y","uid":"y","controller":true}]}}`,
			"Only one reference can have Controller set to true"},
	} {
		a := s.do(call{Method: "POST", Path: maps, Body: c.body})
		if a.Code != 422 || !strings.Contains(a.status(t).Message, c.text) {
			t.Errorf("%s: %d %s", what, a.Code, a.Body)
			continue
		}
		if d := a.status(t).Details; d == nil || d.Kind != "ConfigMap" || len(d.Causes) == 0 || d.Causes[0].Field == "" {
			t.Errorf("%s: %+v", what, d)
		}
	}
	one := s.ok(201, call{Method: "POST", Path: maps, Body: `{"metadata":{"generateName":"some-"}}`}).object(t)
	long := s.ok(201, call{Method: "POST", Path: maps, Body: `{"metadata":{"generateName":"` + strings.Repeat("b", 70) + `"}}`}).object(t)
	if n := one.GetName(); len(n) != 10 || !strings.HasPrefix(n, "some-") || len(long.GetName()) != 63 {
		t.Errorf("generated: %s %s", n, long.GetName())
	}
	if got := s.ok(201, call{Method: "POST", Path: maps, Body: `{"metadata":{"name":"kept","generateName":"some-"}}`}).object(t); got.GetName() != "kept" {
		t.Errorf("a name beside generateName: %s", got.GetName())
	}
}

func (s *server) generation(t *testing.T) {
	s = s.in(t)
	path := "/apis/apps/v1/namespaces/writes/deployments"
	body := strings.NewReplacer(`"replicas":1,`, "", `"unknown":1,`, "", `"unknownNested":"x",`, "", `"imagePullPolicy":"Always",`, "").Replace(fmt.Sprintf(deployment, "counted"))
	s.ok(201, call{Method: "POST", Path: path + "?fieldValidation=Strict", Body: strings.Replace(body, `"name":"counted"`, `"name":"counted","generation":77`, 1)})
	path += "/counted"
	for i, c := range []struct {
		path, body string
		want       int64
	}{
		{"", `{"metadata":{"labels":{"x":"y"}}}`, 1}, {"", `{"spec":{"replicas":3}}`, 2}, {"", `{"spec":{"replicas":3}}`, 2},
		{"", `{"metadata":{"generation":99}}`, 2}, {"/status", `{"status":{"observedGeneration":2,"replicas":3}}`, 2}, {"/status", `{"spec":{"replicas":9}}`, 2},
		{"/scale", `{"spec":{"replicas":4}}`, 3}, {"", `{"status":{"replicas":8}}`, 3},
	} {
		s.ok(200, call{Method: "PATCH", Path: path + c.path, Type: mergePatch, Body: c.body})
		obj := s.ok(200, call{Method: "GET", Path: path}).object(t)
		if obj.GetGeneration() != c.want {
			t.Errorf("step %d: generation %d, not %d", i, obj.GetGeneration(), c.want)
		}
	}
	obj := s.ok(200, call{Method: "GET", Path: path}).object(t)
	if get(t, obj, "spec", "replicas") != int64(4) || get(t, obj, "status", "replicas") != int64(3) {
		t.Errorf("spec and status: %v", obj.Object)
	}
	// Deletion counts too, as it changes what controllers must do.
	s.ok(200, call{Method: "PATCH", Path: path, Type: mergePatch, Body: `{"metadata":{"finalizers":["example.com/wait"]}}`})
	if got := s.ok(200, call{Method: "DELETE", Path: path}).object(t); got.GetGeneration() != 4 || got.GetDeletionTimestamp() == nil {
		t.Errorf("deleting: %v", got.Object["metadata"])
	}
}

func (s *server) dryRun(t *testing.T) {
	s = s.in(t)
	path := "/api/v1/namespaces/writes/pods"
	pod := `{"metadata":{"name":"dry"},"spec":{"containers":[{"name":"c","image":"i"}]}}`
	made := s.ok(201, call{Method: "POST", Path: path + "?dryRun=All", Body: pod}).object(t)
	if made.GetUID() == "" || get(t, made, "metadata", "creationTimestamp") == nil || made.GetResourceVersion() != "" || get(t, made, "spec", "restartPolicy") != "Always" {
		t.Errorf("a dry create: %v", made.Object)
	}
	s.ok(404, call{Method: "GET", Path: path + "/dry"})
	s.ok(201, call{Method: "POST", Path: path, Body: pod})
	s.ok(409, call{Method: "POST", Path: path + "?dryRun=All", Body: pod})
	before := s.ok(200, call{Method: "GET", Path: path + "/dry"}).Body
	for what, c := range map[string]call{
		"update":     {Method: "PATCH", Path: path + "/dry", Type: mergePatch, Body: `{"metadata":{"labels":{"a":"b"}}}`},
		"status":     {Method: "PATCH", Path: path + "/dry/status", Type: mergePatch, Body: `{"status":{"phase":"Running"}}`},
		"binding":    {Method: "POST", Path: path + "/dry/binding", Body: `{"metadata":{"name":"dry"},"target":{"kind":"Node","name":"n"}}`},
		"eviction":   {Method: "POST", Path: path + "/dry/eviction", Body: `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"dry"}}`},
		"delete":     {Method: "DELETE", Path: path + "/dry"},
		"collection": {Method: "DELETE", Path: path},
		"apply":      {Method: "PATCH", Path: path + "/dry", Type: applyPatch, Body: "apiVersion: v1\nkind: Pod\nmetadata: {name: dry, labels: {c: d}}\n"},
	} {
		c.Path += "?dryRun=All&fieldManager=m"
		if a := s.do(c); a.Code != 200 && a.Code != 201 {
			t.Errorf("%s: %d %s", what, a.Code, a.Body)
		}
	}
	if after := s.ok(200, call{Method: "GET", Path: path + "/dry"}).Body; !bytes.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	// Names and addresses are not taken either.
	services := "/api/v1/namespaces/writes/services"
	service := `{"metadata":{"name":"dry"},"spec":{"type":"NodePort","clusterIP":"10.96.7.7","ports":[{"port":80,"nodePort":30777}]}}`
	s.ok(201, call{Method: "POST", Path: services + "?dryRun=All", Body: service})
	s.ok(201, call{Method: "POST", Path: services, Body: service})
	if a := s.do(call{Method: "POST", Path: path + "/dry/exec?dryRun=All&command=x"}); a.Code != 400 || a.status(t).Message != "dryRun is not supported" {
		t.Errorf("exec: %d %s", a.Code, a.Body)
	}
}

// nodePorts asks for addresses and ports of nodes that upstream refuses: a node
// port is one Service's, whatever its protocol.
func (s *server) nodePorts(t *testing.T) {
	s = s.in(t)
	path := "/api/v1/namespaces/writes/services"
	taken := `{"metadata":{"name":"ports"},"spec":{"type":"NodePort","clusterIP":"10.96.7.8","ports":[{"port":80,"nodePort":31080}]}}`
	s.ok(201, call{Method: "POST", Path: path, Body: taken})
	for spec, want := range map[string]struct {
		code    int32
		message string
	}{
		`"type":"NodePort","ports":[{"port":80,"protocol":"UDP","nodePort":31080}]`: {422, `Service "refused" is invalid: spec.ports[0].nodePort: Invalid value: 31080: provided port is already allocated`},
		`"type":"NodePort","ports":[{"name":"a","port":80,"nodePort":31081},{"name":"b","port":81,"protocol":"UDP","nodePort":31081}]`: {422,
			`Service "refused" is invalid: spec.ports[1].nodePort: Invalid value: 31081: provided port is already allocated`},
		`"type":"NodePort","ports":[{"port":80,"nodePort":1}]`: {422, `Service "refused" is invalid: spec.ports[0].nodePort: Invalid value: 1: provided port is not in the valid range. The range of valid ports is 30000-32767`},
		`"type":"LoadBalancer","externalTrafficPolicy":"Local","healthCheckNodePort":31080,"ports":[{"port":80}]`: {500,
			"Internal error occurred: failed to allocate requested HealthCheck NodePort 31080: provided port is already allocated"},
		`"type":"NodePort","clusterIP":"10.96.7.8","ports":[{"port":80}]`: {422, `Service "refused" is invalid: spec.clusterIPs: Invalid value: ["10.96.7.8"]: failed to allocate IP 10.96.7.8: provided IP is already allocated`},
		`"type":"NodePort","clusterIP":"1.2.3.4","ports":[{"port":80}]`:   {422, `Service "refused" is invalid: spec.clusterIPs: Invalid value: ["1.2.3.4"]: failed to allocate IP 1.2.3.4: the provided network does not match the current range`},
		`"clusterIP":"10.96.0.0","ports":[{"port":80}]`:                   {422, `Service "refused" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.0"]: failed to allocate IP 10.96.0.0: the provided network does not match the current range`},
	} {
		a := s.do(call{Method: "POST", Path: path, Body: `{"metadata":{"name":"refused"},"spec":{` + spec + `}}`})
		if got := a.status(t); got.Code != want.code || got.Message != want.message {
			t.Errorf("%s: %d %s\nwant %d %s", spec, got.Code, got.Message, want.code, want.message)
		}
	}
	// A dry run does not look who has an address.
	s.ok(201, call{Method: "POST", Path: path + "?dryRun=All", Body: `{"metadata":{"name":"dry-address"},"spec":{"clusterIP":"10.96.7.8","ports":[{"port":80}]}}`})
	// What was given to a Service that was then refused is free again at once; a
	// second Service of a name hears first that its ports are taken.
	refused := `{"metadata":{"name":"refused"},"spec":{"type":"NodePort","clusterIP":"10.96.7.9","ports":[{"name":"NOT_A_NAME","port":80,"nodePort":31083}]}}`
	if a := s.do(call{Method: "POST", Path: path, Body: refused}); a.Code != 422 || !strings.Contains(a.status(t).Message, "spec.ports[0].name") {
		t.Errorf("a port without a proper name: %d %s", a.Code, a.Body)
	}
	s.ok(201, call{Method: "POST", Path: path, Body: `{"metadata":{"name":"after"},"spec":{"type":"NodePort","clusterIP":"10.96.7.9","ports":[{"port":80,"nodePort":31083}]}}`})
	update := `{"metadata":{"name":"after"},"spec":{"type":"NodePort","clusterIP":"10.96.7.9","ports":[{"name":"a","port":80,"nodePort":31083},{"name":"NOT_A_NAME","port":81,"nodePort":31086}]}}`
	if a := s.do(call{Method: "PUT", Path: path + "/after", Body: update}); a.Code != 422 || !strings.Contains(a.status(t).Message, "spec.ports[1].name") {
		t.Errorf("a further port without a proper name: %d %s", a.Code, a.Body)
	}
	s.ok(201, call{Method: "POST", Path: path, Body: `{"metadata":{"name":"later"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":31086}]}}`})
	for body, want := range map[string]string{
		taken: `Service "ports" is invalid: spec.clusterIPs: Invalid value: ["10.96.7.8"]: failed to allocate IP 10.96.7.8: provided IP is already allocated`,
		`{"metadata":{"name":"ports"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":31084}]}}`: `services "ports" already exists`,
	} {
		if got := s.do(call{Method: "POST", Path: path, Body: body}).status(t).Message; got != want {
			t.Errorf("again: %s\nwant %s", got, want)
		}
	}
	s.ok(201, call{Method: "POST", Path: path, Body: `{"metadata":{"name":"late"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":31084}]}}`})
	// Ports of one number share a node port, and a load balancer without node
	// ports has one for health checks.
	s.ok(201, call{Method: "POST", Path: path, Body: `{"metadata":{"name":"shared"},"spec":{"type":"NodePort","ports":[{"name":"a","port":80},{"name":"b","port":80,"protocol":"UDP","nodePort":31082}]}}`})
	s.ok(201, call{Method: "POST", Path: path, Body: `{"metadata":{"name":"checked"},"spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local","allocateLoadBalancerNodePorts":false,"ports":[{"port":80}]}}`})
}

func (s *server) preconditions(t *testing.T) {
	s = s.in(t)
	path := "/api/v1/namespaces/writes/configmaps/conditional"
	obj := s.configMap("writes", "conditional", "1")
	s.patchKey("writes", "conditional", "2")
	for what, c := range map[string]struct {
		call
		text string
	}{
		"stale update":  {call{Method: "PUT", Path: path, Body: `{"metadata":{"name":"conditional","resourceVersion":"` + obj.GetResourceVersion() + `"}}`}, "the object has been modified"},
		"other uid":     {call{Method: "PUT", Path: path, Body: `{"metadata":{"name":"conditional","uid":"x"}}`}, "Precondition failed: UID in precondition: x, UID in object meta: " + string(obj.GetUID())},
		"stale delete":  {call{Method: "DELETE", Path: path, Body: `{"preconditions":{"resourceVersion":"` + obj.GetResourceVersion() + `"}}`}, "the ResourceVersion in the precondition (" + obj.GetResourceVersion() + ") does not match the ResourceVersion in record ("},
		"delete by uid": {call{Method: "DELETE", Path: path, Body: `{"preconditions":{"uid":"x"}}`}, "the UID in the precondition (x) does not match the UID in record ("},
	} {
		a := s.do(c.call)
		if a.Code != 409 || a.status(t).Reason != metav1.StatusReasonConflict || !strings.Contains(a.status(t).Message, c.text) {
			t.Errorf("%s: %d %s", what, a.Code, a.Body)
		}
	}
	s.ok(200, call{Method: "PUT", Path: path, Body: `{"metadata":{"name":"conditional"}}`})
	now := s.ok(200, call{Method: "GET", Path: path}).object(t)
	s.ok(200, call{Method: "DELETE", Path: path, Body: `{"preconditions":{"uid":"` + string(now.GetUID()) + `","resourceVersion":"` + now.GetResourceVersion() + `"}}`})
}

// races: many writers at once, none of whom overwrites another.
func (s *server) races(t *testing.T) {
	s = s.in(t)
	s.configMap("writes", "raced", "0")
	maps := s.kube.CoreV1().ConfigMaps("writes")
	const writers = 16
	errs := make(chan error, writers)
	for i := range writers {
		go func() {
			for {
				cm, err := maps.Get(t.Context(), "raced", metav1.GetOptions{})
				if err == nil {
					cm.Data[fmt.Sprint("w", i)] = "x"
					_, err = maps.Update(t.Context(), cm, metav1.UpdateOptions{})
				}
				if !apierrors.IsConflict(err) {
					errs <- err
					return
				}
			}
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	cm, err := maps.Get(t.Context(), "raced", metav1.GetOptions{})
	if err != nil || len(cm.Data) != writers+1 {
		t.Errorf("%v %v", cm.Data, err)
	}
	// Patches need no retry: the server takes them one after the other.
	for i := range writers {
		go func() {
			_, err := maps.Patch(context.Background(), "raced", "application/merge-patch+json", fmt.Appendf(nil, `{"data":{"p%d":"x"}}`, i), metav1.PatchOptions{})
			errs <- err
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// wire: versions of HTTP, compression, HEAD, pretty printing.
func (s *server) wire(t *testing.T) {
	s = s.in(t)
	tlsConfig, err := rest.TLSConfigFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	one := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableCompression: true}}
	defer one.CloseIdleConnections()
	for range 40 {
		s.ok(201, call{Method: "POST", Path: "/api/v1/namespaces/writes/secrets", Body: `{"metadata":{"generateName":"fill-"},"stringData":{"a":"` + strings.Repeat("abcdefgh", 1000) + `"}}`})
	}
	for name, hc := range map[string]*http.Client{"1.1": one, "2.0": s.http} {
		res, err := hc.Get(s.URL() + "/api/v1/namespaces/writes/secrets")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.Proto != "HTTP/"+name || !json.Valid(body) {
			t.Errorf("%s: %s %v", name, res.Proto, err)
		}
	}
	zipped := s.ok(200, call{Method: "GET", Path: "/api/v1/namespaces/writes/secrets", Client: one, Header: map[string]string{"Accept-Encoding": "gzip"}})
	if zipped.Header.Get("Content-Encoding") != "gzip" || zipped.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("headers: %v", zipped.Header)
	}
	r, err := gzip.NewReader(bytes.NewReader(zipped.Body))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := io.ReadAll(r); err != nil || !json.Valid(plain) {
		t.Errorf("unzipped: %v", err)
	}
	small := s.ok(200, call{Method: "GET", Path: "/api/v1/namespaces/writes", Client: one, Header: map[string]string{"Accept-Encoding": "gzip"}})
	if small.Header.Get("Content-Encoding") != "" || small.Header.Get("Cache-Control") != "no-cache, private" {
		t.Errorf("small answers are not compressed: %v", small.Header)
	}
	if pretty := s.ok(200, call{Method: "GET", Path: "/api/v1/namespaces/writes?pretty=true"}); !strings.HasPrefix(string(pretty.Body), "{\n  \"kind\": \"Namespace\",\n") {
		t.Errorf("pretty: %.80s", pretty.Body)
	}
	var u answer
	for _, accept := range []string{"*/*", "text/html,application/json;q=0.9", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"} {
		if u = s.ok(200, call{Method: "GET", Path: "/api/v1/namespaces/writes", Accept: accept}); !strings.HasPrefix(u.Header.Get("Content-Type"), mediaJSON) {
			t.Errorf("%s: %s", accept, u.Header.Get("Content-Type"))
		}
	}
}

// versions: one object in each of the versions that serve it.
func (s *server) versions(t *testing.T) {
	s = s.in(t)
	path := "/namespaces/writes/horizontalpodautoscalers"
	s.ok(201, call{Method: "POST", Path: "/apis/autoscaling/v1" + path, Body: `{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler","metadata":{"name":"h"},"spec":{"scaleTargetRef":{"kind":"Deployment","name":"d","apiVersion":"apps/v1"},"maxReplicas":5,"targetCPUUtilizationPercentage":60}}`})
	v2 := s.ok(200, call{Method: "GET", Path: "/apis/autoscaling/v2" + path + "/h"}).object(t)
	metrics, _ := get(t, v2, "spec", "metrics").([]any)
	if v2.GetAPIVersion() != "autoscaling/v2" || len(metrics) != 1 || get(t, v2, "spec", "minReplicas") != int64(1) {
		t.Errorf("v2: %v", v2.Object)
	}
	s.ok(200, call{Method: "PATCH", Path: "/apis/autoscaling/v2" + path + "/h", Type: mergePatch, Body: `{"spec":{"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":70}}},{"type":"Resource","resource":{"name":"memory","target":{"type":"AverageValue","averageValue":"1Gi"}}}]}}`})
	v1 := s.ok(200, call{Method: "GET", Path: "/apis/autoscaling/v1" + path + "/h"}).object(t)
	if get(t, v1, "spec", "targetCPUUtilizationPercentage") != int64(70) || !strings.Contains(v1.GetAnnotations()["autoscaling.alpha.kubernetes.io/metrics"], "memory") {
		t.Errorf("v1: %v", v1.Object)
	}
	// Owners are told in the version that they wrote in.
	var owners []string
	for _, m := range v1.GetManagedFields() {
		owners = append(owners, m.APIVersion)
	}
	slices.Sort(owners)
	if fmt.Sprint(owners) != "[autoscaling/v1 autoscaling/v2]" {
		t.Errorf("managers: %v", v1.GetManagedFields())
	}

	s.ok(201, call{Method: "POST", Path: "/api/v1/namespaces/writes/events", Body: `{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","name":"p","namespace":"writes"},"reason":"Because","message":"text","type":"Normal","source":{"component":"test"},"count":3}`})
	ev := s.ok(200, call{Method: "GET", Path: "/apis/events.k8s.io/v1/namespaces/writes/events/e"}).object(t)
	if get(t, ev, "note") != "text" || get(t, ev, "regarding", "name") != "p" || get(t, ev, "deprecatedCount") != int64(3) || ev.GetAPIVersion() != "events.k8s.io/v1" {
		t.Errorf("event: %v", ev.Object)
	}
	list, err := s.kube.EventsV1().Events("writes").List(t.Context(), metav1.ListOptions{FieldSelector: "regarding.name=p,reason=Because"})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("by the fields of the new group: %v %v", list, err)
	}
	old, err := s.kube.CoreV1().Events("writes").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=p,involvedObject.kind=Pod,type=Normal"})
	if err != nil || len(old.Items) != 1 || old.Items[0].Source != (corev1.EventSource{Component: "test"}) {
		t.Errorf("by the fields of the old group: %v %v", old, err)
	}
}
