package webhook_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// env is a cluster and a server of webhooks, each at a path of its own.
type env struct {
	*testcluster.Cluster
	t      *testing.T
	server *httptest.Server

	mu    sync.Mutex
	hooks map[string]func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse
	seen  []*admissionv1.AdmissionRequest
	paths []string
}

func start(t *testing.T) *env { return startWith(t, cluster.ServerConfig{}) }

func startWith(t *testing.T, c cluster.ServerConfig) *env {
	e := &env{t: t, Cluster: testcluster.StartWith(t, c), hooks: map[string]func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse{}}
	e.server = httptest.NewUnstartedServer(e)
	e.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	e.server.StartTLS()
	t.Cleanup(e.server.Close)
	return e
}

func (e *env) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		e.t.Errorf("not a review: %v", err)
		return
	}
	e.mu.Lock()
	e.seen, e.paths = append(e.seen, in.Request), append(e.paths, r.URL.Path)
	hook := e.hooks[r.URL.Path]
	e.mu.Unlock()
	out := admissionv1.AdmissionReview{TypeMeta: in.TypeMeta, Response: hook(in.Request)}
	if out.Response == nil {
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // or an empty answer may overtake the connection's end
	}
	out.Response.UID = in.Request.UID
	_ = json.NewEncoder(w).Encode(out)
}

// took returns what the webhooks were asked since the last call.
func (e *env) took() (requests []*admissionv1.AdmissionRequest, paths []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	requests, paths = e.seen, e.paths
	e.seen, e.paths = nil, nil
	return requests, paths
}

// hook registers a webhook of the name at /name, which answers with answer.
func (e *env) hook(name string, answer func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse, rules ...admissionregistrationv1.RuleWithOperations) admissionregistrationv1.ValidatingWebhook {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hooks["/"+name] = answer
	return admissionregistrationv1.ValidatingWebhook{
		Name: name + ".example.com", AdmissionReviewVersions: []string{"v1"}, SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), Rules: rules,
		ClientConfig: admissionregistrationv1.WebhookClientConfig{
			URL:      ptr.To(e.server.URL + "/" + name),
			CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.server.Certificate().Raw}),
		},
	}
}

func (e *env) create(obj client.Object) error { return e.Client.Create(e.t.Context(), obj) }

func (e *env) validating(name string, hooks ...admissionregistrationv1.ValidatingWebhook) *admissionregistrationv1.ValidatingWebhookConfiguration {
	e.t.Helper()
	c := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: hooks}
	if err := e.create(c); err != nil {
		e.t.Fatal(err)
	}
	return c
}

func (e *env) mutating(name string, again bool, hooks ...admissionregistrationv1.ValidatingWebhook) *admissionregistrationv1.MutatingWebhookConfiguration {
	e.t.Helper()
	c := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, h := range hooks {
		w := admissionregistrationv1.MutatingWebhook{
			Name: h.Name, AdmissionReviewVersions: h.AdmissionReviewVersions, SideEffects: h.SideEffects, Rules: h.Rules, ClientConfig: h.ClientConfig,
			FailurePolicy: h.FailurePolicy, ObjectSelector: h.ObjectSelector, MatchConditions: h.MatchConditions, MatchPolicy: h.MatchPolicy,
		}
		if again {
			w.ReinvocationPolicy = ptr.To(admissionregistrationv1.IfNeededReinvocationPolicy)
		}
		c.Webhooks = append(c.Webhooks, w)
	}
	if err := e.create(c); err != nil {
		e.t.Fatal(err)
	}
	return c
}

func rule(resource string, operations ...admissionregistrationv1.OperationType) admissionregistrationv1.RuleWithOperations {
	group, version := "", "v1"
	if r, gv, ok := strings.Cut(resource, "."); ok {
		resource = r
		version, group, _ = strings.Cut(gv, ".")
	}
	return admissionregistrationv1.RuleWithOperations{Operations: operations, Rule: admissionregistrationv1.Rule{
		APIGroups: []string{group}, APIVersions: []string{version}, Resources: []string{resource},
	}}
}

func allow(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true}
}

func deny(message string) func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: message, Reason: metav1.StatusReasonForbidden, Code: 403}}
	}
}

func patches(ops string) func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, Patch: []byte(ops), PatchType: ptr.To(admissionv1.PatchTypeJSONPatch)}
	}
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"a": "b"}}
}

func (e *env) metrics() string {
	e.t.Helper()
	web, err := rest.HTTPClientFor(e.Config)
	if err != nil {
		e.t.Fatal(err)
	}
	resp, err := web.Get(e.Config.Host + "/metrics")
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	return string(data)
}

func (e *env) want(err error, text string) {
	e.t.Helper()
	if text == "" && err != nil || text != "" && (err == nil || !strings.Contains(err.Error(), text)) {
		e.t.Errorf("got %v, want %q", err, text)
	}
}

func TestRequest(t *testing.T) {
	e := start(t)
	c := e.validating("all", e.hook("all", allow, rule("configmaps", "*")))
	bob := &identity.User{Name: "bob", UID: "1", Groups: []string{identity.GroupMasters}, Extra: map[string][]string{"x": {"y"}}}
	as := e.Set(bob).Client
	cm := configMap("x")
	if err := as.Create(t.Context(), cm, client.FieldOwner("me")); err != nil {
		t.Fatal(err)
	}
	requests, _ := e.took()
	r := requests[0]
	kind, resource := metav1.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, metav1.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	if r.Kind != kind || *r.RequestKind != kind || r.Resource != resource || *r.RequestResource != resource ||
		r.Name != "x" || r.Namespace != "default" || r.Operation != "CREATE" || *r.DryRun || r.SubResource != "" {
		t.Errorf("got %+v", r)
	}
	if u := r.UserInfo; u.Username != "bob" || u.UID != "1" || u.Extra["x"][0] != "y" || !slices.Equal(u.Groups, bob.Groups) {
		t.Errorf("user: %+v", u)
	}
	if want := `{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1","fieldManager":"me"}`; string(r.Options.Raw) != want {
		t.Errorf("options: %s", r.Options.Raw)
	}
	var sent corev1.ConfigMap
	if err := json.Unmarshal(r.Object.Raw, &sent); err != nil || sent.Kind != "ConfigMap" || sent.APIVersion != "v1" || sent.UID == "" || sent.Data["a"] != "b" {
		t.Errorf("object: %s", r.Object.Raw)
	}
	if len(r.OldObject.Raw) != 0 {
		t.Errorf("old object of a create: %s", r.OldObject.Raw)
	}
	cm.Data["a"] = "c"
	if err := as.Update(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	if err := as.Delete(t.Context(), cm, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	requests, _ = e.took()
	if r := requests[0]; r.Operation != "UPDATE" || !strings.Contains(string(r.OldObject.Raw), `"a":"b"`) || !strings.Contains(string(r.Object.Raw), `"a":"c"`) {
		t.Errorf("update: %+v", r)
	}
	if r := requests[1]; r.Operation != "DELETE" || !*r.DryRun || len(r.Object.Raw) != 0 || !strings.Contains(string(r.OldObject.Raw), `"a":"c"`) ||
		!strings.Contains(string(r.Options.Raw), `"kind":"DeleteOptions"`) {
		t.Errorf("delete: %+v", r)
	}
	// A collection's objects are asked about one by one; a change of the
	// configuration is in effect at once.
	c.Webhooks[0].Rules[0].Operations = []admissionregistrationv1.OperationType{"DELETE"}
	if err := e.Client.Update(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := e.create(configMap("y")); err != nil {
		t.Fatal(err)
	}
	if err := as.DeleteAllOf(t.Context(), &corev1.ConfigMap{}, client.InNamespace("default")); err != nil {
		t.Fatal(err)
	}
	if requests, _ = e.took(); len(requests) < 2 || slices.ContainsFunc(requests, func(r *admissionv1.AdmissionRequest) bool {
		return r.Operation != "DELETE" || r.Name != "" || len(r.OldObject.Raw) == 0
	}) {
		t.Errorf("deletecollection: %d requests: %+v", len(requests), requests)
	}
	if err := e.Client.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := e.create(configMap("z")); err != nil {
		t.Fatal(err)
	}
	if requests, _ = e.took(); len(requests) != 0 {
		t.Errorf("a webhook that is gone was asked")
	}
}

func TestRefusals(t *testing.T) {
	e := start(t)
	closed := httptest.NewTLSServer(http.NotFoundHandler())
	closed.Close()
	var warnings []string
	ctx := verbs.WithWarnings(t.Context(), func(text string) { warnings = append(warnings, text) })
	for i, c := range []struct {
		name   string
		answer func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse
		change func(h *admissionregistrationv1.ValidatingWebhook)
		dryRun bool
		want   string
		check  func(error) bool
	}{
		{"denied", deny("no"), nil, false, `admission webhook "denied.example.com" denied the request: no`, apierrors.IsForbidden},
		{"silent", func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
			return &admissionv1.AdmissionResponse{}
		}, nil, false,
			`admission webhook "silent.example.com" denied the request without explanation`,
			func(err error) bool { return err.(*apierrors.StatusError).ErrStatus.Code == 400 }},
		{"patches", patches("[]"), nil, false, `Internal error occurred: failed calling webhook "patches.example.com": received invalid webhook response: validating webhook may not return response.patch`, apierrors.IsInternalError},
		{"slow", func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse { return nil },
			func(h *admissionregistrationv1.ValidatingWebhook) { h.TimeoutSeconds = ptr.To[int32](1) }, false,
			`failed calling webhook "slow.example.com": failed to call webhook: Post "` + e.server.URL + `/slow?timeout=1s": context deadline exceeded`, apierrors.IsInternalError},
		{"untrusted", allow, func(h *admissionregistrationv1.ValidatingWebhook) { h.ClientConfig.CABundle = nil }, false,
			"failed to verify certificate: x509: certificate signed by unknown authority", apierrors.IsInternalError},
		{"absent", allow, func(h *admissionregistrationv1.ValidatingWebhook) { h.ClientConfig.URL = &closed.URL }, false, "connection refused", apierrors.IsInternalError},
		{"absent-open", allow, func(h *admissionregistrationv1.ValidatingWebhook) {
			h.ClientConfig.URL, h.FailurePolicy = &closed.URL, ptr.To(admissionregistrationv1.Ignore)
		}, false, "", nil},
		{"slow-open", func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse { return nil }, func(h *admissionregistrationv1.ValidatingWebhook) {
			h.TimeoutSeconds, h.FailurePolicy = ptr.To[int32](1), ptr.To(admissionregistrationv1.Ignore)
		}, false, "", nil},
		{"service", allow, func(h *admissionregistrationv1.ValidatingWebhook) {
			h.ClientConfig.URL, h.ClientConfig.Service = nil, &admissionregistrationv1.ServiceReference{Namespace: "default", Name: "none"}
		}, false, `failed calling webhook "service.example.com": failed to call webhook: Post "https://none.default.svc:443/?timeout=10s": service "none" not found`, apierrors.IsInternalError},
		{"dry", deny("no"), nil, true, "denied the request: no", nil},
		{"false-condition", deny("no"), func(h *admissionregistrationv1.ValidatingWebhook) {
			h.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "a", Expression: "request.name == 'other'"}, {Name: "b", Expression: "object.none == 1"}}
		}, false, "", nil},
		{"bad-condition", deny("no"), func(h *admissionregistrationv1.ValidatingWebhook) {
			h.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "a", Expression: "object.none == 1"}}
		}, false, `configmaps "x" is forbidden: expression 'object.none == 1' resulted in error: no such key: none`, apierrors.IsForbidden},
		{"object-selector", deny("no"), func(h *admissionregistrationv1.ValidatingWebhook) {
			h.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, false, "", nil},
		{"namespace-selector", deny("no"), func(h *admissionregistrationv1.ValidatingWebhook) {
			h.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: "other"}}
		}, false, "", nil},
		{"scope", deny("no"), func(h *admissionregistrationv1.ValidatingWebhook) {
			h.Rules[0].Scope = ptr.To(admissionregistrationv1.ClusterScope)
		}, false, "", nil},
		{"warns", func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
			return &admissionv1.AdmissionResponse{Allowed: true, Warnings: []string{"careful"}, AuditAnnotations: map[string]string{"k": "v"}}
		}, nil, false, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := e.hook(c.name, c.answer, rule("configmaps", "CREATE"))
			if c.change != nil {
				c.change(&h)
			}
			config := e.validating(fmt.Sprint("c", i), h)
			defer func() { _ = e.Client.Delete(t.Context(), config) }()
			var options []client.CreateOption
			if c.dryRun {
				options = append(options, client.DryRunAll)
			}
			cm := configMap("x")
			err := e.Client.Create(ctx, cm, options...)
			e.want(err, c.want)
			if err == nil {
				_ = e.Client.Delete(t.Context(), cm)
			} else if c.check != nil && !c.check(err) {
				t.Errorf("the wrong kind of error: %#v", err)
			}
		})
	}
	if !slices.Contains(warnings, "careful") {
		t.Errorf("warnings: %q", warnings)
	}
	for _, want := range []string{
		`apiserver_admission_webhook_rejection_count{error_type="no_error",name="denied.example.com",operation="CREATE",rejection_code="403",type="validating"} 1`,
		`apiserver_admission_webhook_rejection_count{error_type="calling_webhook_error",name="absent.example.com",operation="CREATE",rejection_code="503",type="validating"} 1`,
		`apiserver_admission_webhook_fail_open_count{name="absent-open.example.com",type="validating"} 1`,
		`apiserver_admission_webhook_request_total{code="200",name="warns.example.com",operation="CREATE",rejected="false",type="validating"} 1`,
		`apiserver_admission_step_admission_duration_seconds_bucket{operation="CREATE",rejected="true",type="validate",le="2.5"}`,
	} {
		if !strings.Contains(e.metrics(), want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

func TestAudit(t *testing.T) {
	dir := t.TempDir()
	policy, log := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "log")
	rules := "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [{level: Request, users: [kubernetes-admin], resources: [{group: '', resources: [configmaps]}]}, {level: None}]}"
	if err := os.WriteFile(policy, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	e := startWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuditPolicyFile: policy, AuditLog: audit.LogOptions{Path: log}}})
	closed := e.hook("closed", allow, rule("configmaps", "CREATE"))
	closed.ClientConfig.URL, closed.FailurePolicy = ptr.To("https://127.0.0.1:1"), ptr.To(admissionregistrationv1.Ignore)
	e.mutating("m", false, e.hook("m", patches(`[{"op": "add", "path": "/data/x", "value": "y"}]`), rule("configmaps", "CREATE")), closed)
	e.validating("v", e.hook("v", func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, AuditAnnotations: map[string]string{"k": "v"}}
	}, rule("configmaps", "CREATE")), closed)
	remote, err := client.New(e.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Create(t.Context(), configMap("x")); err != nil {
		t.Fatal(err)
	}
	var event auditv1.Event
	for deadline := time.Now().Add(10 * time.Second); event.AuditID == "" && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		data, _ := os.ReadFile(log)
		_ = json.Unmarshal(data, &event)
	}
	for key, want := range map[string]string{
		"v.example.com/k": "v",
		"patch.webhook.admission.k8s.io/round_0_index_0":                  `{"configuration":"m","webhook":"m.example.com","patch":[{"op":"add","path":"/data/x","value":"y"}],"patchType":"JSONPatch"}`,
		"mutation.webhook.admission.k8s.io/round_0_index_0":               `{"configuration":"m","webhook":"m.example.com","mutated":true}`,
		"mutation.webhook.admission.k8s.io/round_0_index_1":               `{"configuration":"m","webhook":"closed.example.com","mutated":false}`,
		"failed-open.mutation.webhook.admission.k8s.io/round_0_index_1":   "closed.example.com",
		"failed-open.validating.webhook.admission.k8s.io/round_0_index_1": "closed.example.com",
	} {
		if got := event.Annotations[key]; got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
}

func TestMutation(t *testing.T) {
	e := start(t)
	e.mutating("b", false, e.hook("second", func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		if !strings.Contains(string(r.Object.Raw), `"first":"yes"`) {
			return deny("the first one's change is missing")(r)
		}
		return patches(`[{"op": "add", "path": "/data/second", "value": "yes"}]`)(r)
	}, rule("configmaps", "CREATE")))
	first := e.mutating("a", false, e.hook("first", patches(`[{"op": "add", "path": "/data/first", "value": "yes"}]`), rule("configmaps", "CREATE")))
	cm := configMap("x")
	if err := e.create(cm); err != nil {
		t.Fatal(err)
	}
	if cm.Data["first"] != "yes" || cm.Data["second"] != "yes" || cm.Data["a"] != "b" {
		t.Errorf("got %v", cm.Data)
	}
	requests, _ := e.took()
	if name := requests[0].Object; strings.Contains(string(name.Raw), `"uid"`) {
		t.Errorf("a mutating webhook sees a uid: %s", name.Raw)
	}
	// Generated names come after mutation.
	cm = configMap("")
	cm.GenerateName = "gen-"
	if err := e.create(cm); err != nil || !strings.HasPrefix(cm.Name, "gen-") {
		t.Fatal(cm.Name, err)
	}
	if requests, _ = e.took(); requests[0].Name != "" {
		t.Errorf("a generated name before mutation: %q", requests[0].Name)
	}
	// What a webhook breaks, validation finds.
	first.Webhooks[0].ClientConfig.URL = ptr.To(e.server.URL + "/breaks")
	e.hook("breaks", patches(`[{"op": "add", "path": "/data/first", "value": "yes"}, {"op": "add", "path": "/data/a b", "value": ""}]`))
	if err := e.Client.Update(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := e.create(configMap("y")); !apierrors.IsInvalid(err) {
		t.Errorf("got %v", err)
	}
	e.hook("breaks", patches(`[{"op": "replace", "path": "/nothing/there", "value": 1}]`))
	if err := e.create(configMap("y")); !apierrors.IsInternalError(err) {
		t.Errorf("a patch that cannot be applied: %v", err)
	}
}

// TestMutationKeepsDefaults demands that what webhooks add has its defaults,
// and that they cannot touch what belongs to the system.
func TestMutationKeepsDefaults(t *testing.T) {
	e := start(t)
	for _, obj := range []client.Object{&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}} {
		if err := e.create(obj); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	e.mutating("pods", false, e.hook("init", patches(`[
		{"op": "add", "path": "/spec/initContainers", "value": [{"image": "webhook-image", "name": "webhook-added"}]},
		{"op": "add", "path": "/status/phase", "value": "Running"}, {"op": "add", "path": "/metadata/uid", "value": "mine"}]`), rule("pods", "CREATE", "UPDATE")))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if err := e.create(pod); err != nil {
		t.Fatal(err)
	}
	if c := pod.Spec.InitContainers; len(c) != 1 || c[0].Name != "webhook-added" || c[0].TerminationMessagePolicy != corev1.TerminationMessageReadFile {
		t.Errorf("got %+v", c)
	}
	if pod.Status.Phase != corev1.PodPending || pod.UID == "mine" {
		t.Errorf("got phase %s, uid %s", pod.Status.Phase, pod.UID)
	}
}

func TestReinvocation(t *testing.T) {
	e := start(t)
	var mu sync.Mutex
	count := map[string]int{}
	label := func(name string) func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
			mu.Lock()
			defer mu.Unlock()
			count[name]++
			return patches(fmt.Sprintf(`[{"op": "add", "path": "/data/%s", "value": "%d"}]`, name, count[name]))(r)
		}
	}
	for _, c := range []struct {
		configurations func() []client.Object
		want           []string
	}{
		{func() []client.Object {
			return []client.Object{e.mutating("a", true, e.hook("one", label("one"), rule("configmaps", "CREATE"))), e.mutating("b", false, e.hook("two", label("two"), rule("configmaps", "CREATE")))}
		}, []string{"/one", "/two", "/one"}},
		{func() []client.Object {
			return []client.Object{e.mutating("a", false, e.hook("one", label("one"), rule("configmaps", "CREATE"))), e.mutating("b", true, e.hook("two", label("two"), rule("configmaps", "CREATE")))}
		}, []string{"/one", "/two"}},
		{func() []client.Object {
			return []client.Object{e.mutating("a", true, e.hook("one", allow, rule("configmaps", "CREATE")), e.hook("two", allow, rule("configmaps", "CREATE")))}
		}, []string{"/one", "/two"}},
		{func() []client.Object {
			return []client.Object{e.mutating("a", true, e.hook("one", allow, rule("configmaps", "CREATE")), e.hook("two", label("two"), rule("configmaps", "CREATE")))}
		}, []string{"/one", "/two", "/one"}},
	} {
		made := c.configurations()
		e.took()
		if err := e.Client.Create(t.Context(), configMap("x"), client.DryRunAll); err != nil {
			t.Fatal(err)
		}
		if _, paths := e.took(); !slices.Equal(paths, c.want) {
			t.Errorf("asked %q, want %q", paths, c.want)
		}
		for _, obj := range made {
			if err := e.Client.Delete(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestVersions(t *testing.T) {
	e := start(t)
	e.mutating("v2", false, e.hook("v2", func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return patches(`[{"op": "add", "path": "/spec/metrics", "value": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 7}}}]}]`)(r)
	}, rule("horizontalpodautoscalers.v2.autoscaling", "CREATE")))
	exact := e.hook("exact", deny("exact"), rule("horizontalpodautoscalers.v2.autoscaling", "CREATE"))
	exact.MatchPolicy = ptr.To(admissionregistrationv1.Exact)
	e.validating("exact", exact)
	spec := autoscalingv1.HorizontalPodAutoscalerSpec{MaxReplicas: 3, ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{Kind: "Deployment", Name: "d", APIVersion: "apps/v1"}}
	hpa := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}, Spec: spec}
	if err := e.create(hpa); err != nil {
		t.Fatal(err)
	}
	if p := hpa.Spec.TargetCPUUtilizationPercentage; p == nil || *p != 7 {
		t.Errorf("the v2 webhook's change: %+v", hpa.Spec)
	}
	requests, _ := e.took()
	if len(requests) != 1 || requests[0].Kind.Version != "v2" || requests[0].RequestKind.Version != "v1" || requests[0].Resource.Version != "v2" ||
		requests[0].RequestResource.Version != "v1" || !strings.Contains(string(requests[0].Object.Raw), `"apiVersion":"autoscaling/v2"`) {
		t.Errorf("got %+v", requests)
	}
	v2 := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "y"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		MaxReplicas: 3, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "d", APIVersion: "apps/v1"}}}
	e.want(e.create(v2), "denied the request: exact")
}

// TestSubresources demands that subresources are told apart, each with the kind
// that it speaks.
func TestSubresources(t *testing.T) {
	e := start(t)
	e.validating("all", e.hook("attach", deny("no attaching"), rule("pods/attach", "CONNECT")), e.hook("scale", allow, rule("replicationcontrollers/scale", "UPDATE")),
		e.hook("status", allow, rule("pods/status", "UPDATE")), e.hook("binding", allow, rule("pods/binding", "CREATE")))
	e.mutating("scale", false, e.hook("more", patches(`[{"op": "replace", "path": "/spec/replicas", "value": 7}]`), rule("replicationcontrollers/scale", "UPDATE")))
	meta := metav1.ObjectMeta{Namespace: "default", Name: "x", Labels: map[string]string{"a": "b"}}
	spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}
	pod := &corev1.Pod{ObjectMeta: meta, Spec: spec}
	rc := &corev1.ReplicationController{ObjectMeta: *meta.DeepCopy(), Spec: corev1.ReplicationControllerSpec{Template: &corev1.PodTemplateSpec{ObjectMeta: meta, Spec: spec}}}
	for _, obj := range []client.Object{&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}, pod, rc} {
		if err := e.create(obj); err != nil {
			t.Fatal(err)
		}
	}
	web, err := rest.HTTPClientFor(e.Config)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := web.Post(e.Config.Host+"/api/v1/namespaces/default/pods/x/attach?stdout=true", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), "denied the request: no attaching") {
		t.Errorf("attach: %d %s", resp.StatusCode, body)
	}
	scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: rc.Name}, Spec: autoscalingv1.ScaleSpec{Replicas: 2}}
	if err := e.Client.SubResource("scale").Update(t.Context(), rc, client.WithSubResourceBody(scale)); err != nil || scale.Spec.Replicas != 7 {
		t.Errorf("scale: %+v, %v", scale.Spec, err)
	}
	pod.Status.Message = "m"
	if err := e.Client.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if err := e.Client.SubResource("binding").Create(t.Context(), pod, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}); err != nil {
		t.Fatal(err)
	}
	requests, paths := e.took()
	var got []string
	for i, r := range requests {
		got = append(got, fmt.Sprintf("%s %s/%s %s %s %s", paths[i], r.Resource.Resource, r.SubResource, r.Operation, r.Name, r.Kind.Kind))
	}
	want := []string{"/attach pods/attach CONNECT x PodAttachOptions", "/more replicationcontrollers/scale UPDATE x Scale", "/scale replicationcontrollers/scale UPDATE x Scale",
		"/status pods/status UPDATE x Pod", "/binding pods/binding CREATE x Binding"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(string(requests[2].Object.Raw), `"apiVersion":"autoscaling/v1"`) || !strings.Contains(string(requests[2].OldObject.Raw), `"replicas":1`) {
		t.Errorf("scale: %s, before: %s", requests[2].Object.Raw, requests[2].OldObject.Raw)
	}
}

func TestOwnConfigurationIsExempt(t *testing.T) {
	e := start(t)
	// Without its Service the server would end.
	e.Wait(t, "the server's Service", &corev1.ServiceList{}, func() bool {
		return e.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "kubernetes"}, &corev1.Service{}) == nil
	})
	all := rule("*", "*")
	all.APIGroups, all.APIVersions, all.Resources = []string{"*"}, []string{"*"}, []string{"*/*"}
	e.validating("everything", e.hook("everything", deny("never"), all))
	c := e.mutating("other", false, e.hook("other", allow, all))
	if err := e.Client.Delete(t.Context(), c); err != nil {
		t.Error(err)
	}
	e.want(e.create(configMap("x")), "never")
	e.want(e.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}), "never")
	requests, _ := e.took()
	if !slices.ContainsFunc(requests, func(r *admissionv1.AdmissionRequest) bool {
		return r.Resource.Resource == "namespaces" && r.Namespace == "n" && r.Name == "n"
	}) {
		t.Error("a namespace is not in itself")
	}
}

// TestUnderLoad changes the configuration while writes go on: each write sees
// the configuration before or after, never half of one.
func TestUnderLoad(t *testing.T) {
	e := start(t)
	e.hook("a", patches(`[{"op": "add", "path": "/data/hook", "value": "a"}]`))
	e.hook("b", patches(`[{"op": "add", "path": "/data/hook", "value": "b"}]`))
	c := e.mutating("c", true, e.hook("a", patches(`[{"op": "add", "path": "/data/hook", "value": "a"}]`), rule("configmaps", "CREATE")))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				cm := configMap("")
				cm.GenerateName = "x-"
				if err := e.Client.Create(t.Context(), cm, client.DryRunAll); err != nil {
					t.Error(err)
					return
				}
				if cm.Data["hook"] != "a" && cm.Data["hook"] != "b" {
					t.Errorf("no webhook was asked: %v", cm.Data)
					return
				}
			}
		})
	}
	for i := range 30 {
		path := []string{"/a", "/b"}[i%2]
		c.Webhooks[0].ClientConfig.URL = ptr.To(e.server.URL + path)
		if err := e.Client.Update(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		cm := configMap("x")
		if err := e.Client.Create(t.Context(), cm, client.DryRunAll); err != nil || cm.Data["hook"] != path[1:] {
			t.Errorf("a write after the change to %s: %v, %v", path, cm.Data, err)
		}
	}
	cancel()
	wg.Wait()
}
