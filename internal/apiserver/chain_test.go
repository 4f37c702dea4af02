package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver"
	"skiff/internal/apiserver/audit"
	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
)

// caller makes plain requests as some user.
type caller struct {
	t      *testing.T
	url    string
	client *http.Client
}

func as(t *testing.T, tc *testcluster.Cluster, user string, groups ...string) *caller {
	t.Helper()
	config := rest.CopyConfig(tc.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	if user == "" {
		config.Impersonate = rest.ImpersonationConfig{}
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return &caller{t, tc.URL(), &http.Client{Transport: transport}}
}

type answer struct {
	*http.Response
	body string
}

func (c *caller) try(method, path string, body io.Reader, headers ...string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	return c.client.Do(request)
}

func (c *caller) do(method, path string, body io.Reader, headers ...string) answer {
	c.t.Helper()
	response, err := c.try(method, path, body, headers...)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer{response, string(data)}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 2*time.Millisecond, 20*time.Second, true,
		func(context.Context) (bool, error) { return condition(), nil }); err != nil {
		t.Fatalf("waited in vain: %s", what)
	}
}

const configMaps = "/api/v1/namespaces/default/configmaps"

// slowCreate begins to create a ConfigMap; it ends with the call of finish.
func (c *caller) slowCreate(name, query string) (finish func(), result chan answer) {
	c.t.Helper()
	read, write := io.Pipe()
	result = make(chan answer, 1)
	go func() {
		response, err := c.try("POST", configMaps+query, read)
		if err != nil {
			result <- answer{nil, err.Error()}
			return
		}
		defer response.Body.Close()
		data, _ := io.ReadAll(response.Body)
		result <- answer{response, string(data)}
	}()
	if _, err := io.WriteString(write, `{"metadata":{"name":"`+name+`"}`); err != nil {
		c.t.Fatal(err)
	}
	return func() { _, _ = io.WriteString(write, "}"); write.Close() }, result
}

func TestFlowControl(t *testing.T) {
	t.Parallel()
	tc := testcluster.Start(t)
	level := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "narrow"}}
	level.Spec = flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
		NominalConcurrencyShares: ptr.To[int32](0), BorrowingLimitPercent: ptr.To[int32](0),
		LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
	}}
	schema := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "narrow"}}
	schema.Spec.MatchingPrecedence, schema.Spec.PriorityLevelConfiguration.Name = 500, "narrow"
	schema.Spec.Rules = []flowcontrolv1.PolicyRulesWithSubjects{{
		Subjects: []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "ann"}}},
		ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"configmaps"},
			ClusterScope: true, Namespaces: []string{"*"}}},
	}}
	if err := tc.Client.Create(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	dangling := func() *flowcontrolv1.FlowSchemaCondition {
		if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(schema), schema); err != nil || len(schema.Status.Conditions) == 0 {
			return &flowcontrolv1.FlowSchemaCondition{}
		}
		return &schema.Status.Conditions[0]
	}
	eventually(t, "a condition", func() bool { return dangling().Status == flowcontrolv1.ConditionTrue })
	if c := dangling(); c.Reason != "NotFound" || c.Message != `This FlowSchema references the PriorityLevelConfiguration object named "narrow" but there is no such object` {
		t.Errorf("%+v", c)
	}
	if err := tc.Client.Create(t.Context(), level); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the condition to end", func() bool { return dangling().Status == flowcontrolv1.ConditionFalse })
	if c := dangling(); c.Reason != "Found" || c.Type != flowcontrolv1.FlowSchemaConditionDangling || c.LastTransitionTime.IsZero() {
		t.Errorf("%+v", c)
	}

	ann := as(t, tc, "ann", "system:masters")
	// A member of system:masters is never held up.
	if got := ann.do("GET", configMaps, nil); got.StatusCode != 200 || got.Header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID) == string(schema.UID) {
		t.Errorf("%d %v", got.StatusCode, got.Header)
	}
	grant(t, tc, "ann")
	ann = as(t, tc, "ann")
	finish, result := ann.slowCreate("x", "")
	executing := `apiserver_flowcontrol_current_executing_requests{flow_schema="narrow",priority_level="narrow"}`
	eventually(t, "the only seat to be taken", func() bool { return metric(as(t, tc, "").do("GET", "/metrics", nil).body, executing) == 1 })
	refused := ann.do("GET", configMaps, nil)
	h := refused.Header
	if refused.StatusCode != http.StatusTooManyRequests || h.Get("Retry-After") != "1" || refused.body != "Too many requests, please try again later.\n" ||
		h.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID) != string(schema.UID) || h.Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID) != string(level.UID) {
		t.Errorf("%v %q", h, refused.body)
	}
	if got := as(t, tc, "bob").do("GET", configMaps, nil); got.StatusCode != http.StatusForbidden {
		t.Errorf("somebody else: %d", got.StatusCode)
	}
	finish()
	if got := <-result; got.Response == nil || got.StatusCode != 201 {
		t.Errorf("%+v", got)
	}
	metrics := as(t, tc, "").do("GET", "/metrics", nil).body
	for _, want := range []string{
		`apiserver_flowcontrol_dispatched_requests_total{flow_schema="narrow",priority_level="narrow"}`,
		`apiserver_flowcontrol_rejected_requests_total{flow_schema="narrow",priority_level="narrow",reason="concurrency-limit"}`,
		`apiserver_flowcontrol_nominal_limit_seats{priority_level="narrow"} 0`,
		`apiserver_flowcontrol_nominal_limit_seats{priority_level="workload-low"} 245`,
		`apiserver_flowcontrol_current_executing_requests{flow_schema="exempt",priority_level="exempt"} 1`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no metric %s", want)
		}
	}
}

func TestMaxInFlight(t *testing.T) {
	t.Parallel()
	c := cluster.ServerConfig{API: cluster.APIConfig{DisablePriorityAndFairness: true, MaxMutatingRequestsInFlight: 1, MaxRequestsInFlight: 50}}
	tc := testcluster.StartWith(t, c)
	grant(t, tc, "bob")
	bob := as(t, tc, "bob")
	finish, first := bob.slowCreate("first", "")
	eventually(t, "the first request to arrive", func() bool {
		return metric(as(t, tc, "").do("GET", "/metrics", nil).body, `apiserver_current_inflight_requests{request_kind="mutating"}`) == 1
	})
	if got := bob.do("POST", configMaps, strings.NewReader(`{"metadata":{"generateName":"x"}}`)); got.StatusCode != http.StatusTooManyRequests || got.Header.Get("Retry-After") != "1" {
		t.Errorf("a second one: %d %v", got.StatusCode, got.Header)
	}
	if got := bob.do("GET", configMaps, nil); got.StatusCode != 200 {
		t.Errorf("reading: %d", got.StatusCode)
	}
	finish()
	if got := <-first; got.Response == nil || got.StatusCode != 201 {
		t.Errorf("%+v", got)
	}
	if got := bob.do("POST", configMaps, strings.NewReader(`{"metadata":{"name":"y"}}`)); got.StatusCode != 201 {
		t.Errorf("afterwards: %d", got.StatusCode)
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	tc := testcluster.Start(t)
	admin := as(t, tc, "")
	if got := admin.do("GET", configMaps+"?timeout=soon", nil); got.StatusCode != 400 || !strings.Contains(got.body, `invalid timeout specified in the request URL - time: invalid duration \"soon\"`) {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if got := admin.do("GET", configMaps+"?timeout=0s", nil); got.StatusCode != 200 {
		t.Errorf("no limit: %d %s", got.StatusCode, got.body)
	}
	began := time.Now()
	_, result := admin.slowCreate("late", "?timeout=300ms")
	got := <-result
	if got.Response == nil || got.StatusCode != 504 {
		t.Fatalf("%+v", got)
	}
	var status metav1.Status
	if err := json.Unmarshal([]byte(got.body), &status); err != nil {
		t.Fatal(err)
	}
	if status.Reason != metav1.StatusReasonTimeout || status.Message != "Timeout: request did not complete within requested timeout - context deadline exceeded" {
		t.Errorf("%+v", status)
	}
	if took := time.Since(began); took < 300*time.Millisecond || took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{Limits: apiserver.Limits{ShutdownDelay: 500 * time.Millisecond, RequestTimeout: 10 * time.Second}}})
	admin, probe := as(t, tc, ""), as(t, tc, "")
	watch, err := admin.try("GET", configMaps+"?watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Body.Close()
	watched := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, watch.Body); watched <- err }()
	finish, created := admin.slowCreate("last", "")
	if got := probe.do("GET", "/readyz", nil); got.body != "ok" {
		t.Fatalf("%d %s", got.StatusCode, got.body)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- tc.Stop() }()
	eventually(t, "readyz to fail", func() bool { return probe.do("GET", "/readyz", nil).StatusCode == 500 })
	if got := probe.do("GET", "/readyz?verbose", nil); !strings.Contains(got.body, "[-]shutdown failed: reason withheld") {
		t.Errorf("%s", got.body)
	}
	if got := probe.do("GET", "/livez", nil); got.StatusCode != 200 {
		t.Errorf("livez: %d", got.StatusCode)
	}
	if got := probe.do("GET", configMaps, nil); got.StatusCode != 200 {
		t.Errorf("new requests during the delay: %d", got.StatusCode)
	}
	select {
	case err := <-watched:
		t.Fatalf("the watch ended before the delay was over: %v", err)
	default:
	}
	if err := <-watched; err != nil {
		t.Errorf("the watch did not end cleanly: %v", err)
	}
	select {
	case err := <-stopped:
		t.Fatalf("stopped before the last request was over: %v", err)
	default:
	}
	finish()
	if got := <-created; got.Response == nil || got.StatusCode != 201 {
		t.Errorf("a request in flight: %+v", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	tc := testcluster.Start(t)
	admin := as(t, tc, "")
	for path, want := range map[string]string{
		"/livez": "ok", "/healthz": "ok", "/readyz": "ok", "/livez/ping": "ok", "/readyz/etcd": "ok",
	} {
		if got := admin.do("GET", path, nil); got.StatusCode != 200 || got.body != want {
			t.Errorf("%s: %d %q", path, got.StatusCode, got.body)
		}
	}
	for path, want := range map[string][]string{
		"/livez?verbose": {"[+]ping ok\n", "[+]etcd ok\n", "[+]poststarthook/rbac/bootstrap-roles ok\n", "livez check passed\n"},
		"/livez?verbose&exclude=etcd&exclude=nope": {"[+]etcd excluded: ok\n", "warn: some health checks cannot be excluded: no matches for \"nope\"\nlivez check passed\n"},
	} {
		got := admin.do("GET", path, nil)
		for _, line := range want {
			if !strings.Contains(got.body, line) {
				t.Errorf("%s lacks %q: %s", path, line, got.body)
			}
		}
	}
	if got := admin.do("GET", "/livez/nope", nil); got.StatusCode != 404 {
		t.Errorf("an unknown check: %d", got.StatusCode)
	}
}

// TestClientThatDoesNotRead opens a watch and never reads: others hear of
// everything at once, and it is cut off.
func TestClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{Limits: apiserver.Limits{WatchWriteTimeout: 500 * time.Millisecond}}})
	admin := as(t, tc, "")
	conf, err := rest.TLSConfigFor(tc.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"http/1.1"} {
		conf := conf.Clone()
		conf.NextProtos = []string{proto}
		conn, err := tls.Dial("tcp", strings.TrimPrefix(tc.URL(), "https://"), conf)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s?watch=1&resourceVersion=0 HTTP/1.1\r\nHost: x\r\n\r\n", configMaps)
		if response, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil); err != nil || response.StatusCode != 200 {
			t.Fatal(response, err)
		}
	}
	watching := func() bool {
		return strings.Contains(admin.do("GET", "/metrics", nil).body, `apiserver_longrunning_requests{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1"} 1`)
	}
	eventually(t, "the watch to be counted", watching)
	events, err := tc.Client.Watch(t.Context(), &corev1.ConfigMapList{}, client.InNamespace("default"))
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	// More than the buffers of the connection hold.
	big := strings.Repeat("x", 900<<10)
	const many = 16
	for i := range many {
		if err := tc.Client.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("big-", i)}, Data: map[string]string{"k": big}}); err != nil {
			t.Fatal(err)
		}
	}
	for seen := 0; seen < many; {
		select {
		case ev := <-events.ResultChan():
			if cm, ok := ev.Object.(*corev1.ConfigMap); ok && strings.HasPrefix(cm.Name, "big-") {
				seen++
			}
		case <-time.After(time.Minute):
			t.Fatal("another watcher was held up")
		}
	}
	eventually(t, "the watcher to be cut off", func() bool { return !watching() })
}

func TestBrowsers(t *testing.T) {
	t.Parallel()
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{Limits: apiserver.Limits{
		CORSOrigins: []*regexp.Regexp{regexp.MustCompile(`^https://ui\.example\.com$`)}, StrictTransport: []string{"max-age=31536000", "includeSubDomains"},
	}}})
	admin := as(t, tc, "")
	got := admin.do("OPTIONS", configMaps, nil, "Origin", "https://ui.example.com")
	if got.StatusCode != 204 || got.Header.Get("Access-Control-Allow-Origin") != "https://ui.example.com" || got.Header.Get("Access-Control-Allow-Credentials") != "true" {
		t.Errorf("%d %v", got.StatusCode, got.Header)
	}
	if got := admin.do("GET", configMaps, nil, "Origin", "https://evil.example.com"); got.StatusCode != 200 || got.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%d %v", got.StatusCode, got.Header)
	}
	if h := got.Header.Get("Strict-Transport-Security"); h != "max-age=31536000; includeSubDomains" {
		t.Errorf("Strict-Transport-Security: %s", h)
	}
}

func TestSizeLimits(t *testing.T) {
	t.Parallel()
	tc := testcluster.Start(t)
	admin := as(t, tc, "")
	body := `{"metadata":{"name":"x"},"data":{"k":"` + strings.Repeat("x", 3<<20) + `"}}`
	if got := admin.do("POST", configMaps, strings.NewReader(body)); got.StatusCode != 413 || !strings.Contains(got.body, "limit is 3145728") {
		t.Errorf("a long body: %d %s", got.StatusCode, got.body)
	}
	// Its length is not known beforehand.
	if got := admin.do("POST", configMaps, io.MultiReader(strings.NewReader(body))); got.StatusCode != 413 {
		t.Errorf("a long body in chunks: %d", got.StatusCode)
	}
	response, err := admin.try("GET", configMaps, nil, "X-Long", strings.Repeat("x", 2<<20))
	if err == nil {
		response.Body.Close()
		if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("long headers: %d", response.StatusCode)
		}
	}
}

const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, nonResourceURLs: ["/readyz*", "/livez*", "/healthz*"]}
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, omitManagedFields: true, namespaces: [default], verbs: [create, patch], resources: [{group: "", resources: ["configmaps"]}]}
- {level: Request, resources: [{group: "", resources: [configmaps]}]}
- {level: Metadata, users: [ann]}
- {level: None}
`

func TestAudit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	policy, log := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuditPolicyFile: policy, AuditLog: audit.LogOptions{Path: log}}})
	grant(t, tc, "ann")
	ann := as(t, tc, "ann")
	created := ann.do("POST", configMaps, strings.NewReader(`{"metadata":{"name":"x"},"data":{"a":"b"}}`), "Audit-Id", "my-id", "User-Agent", "test")
	if created.StatusCode != 201 || created.Header.Get("Audit-Id") != "my-id" {
		t.Fatalf("%d %s", created.StatusCode, created.body)
	}
	ann.do("PATCH", configMaps+"/x", strings.NewReader(`{"data":{"a":"c"}}`), "Content-Type", "application/merge-patch+json")
	ann.do("DELETE", configMaps+"/x", nil)
	ann.do("GET", "/api/v1/namespaces/default/secrets/none", nil)
	ann.do("GET", "/api/v1/nodes", nil)
	ann.do("GET", "/readyz", nil)
	watch, err := ann.try("GET", configMaps+"?watch=1&timeoutSeconds=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, watch.Body)
	watch.Body.Close()
	if err := tc.Stop(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	var events []auditv1.Event
	for line := range strings.Lines(string(data)) {
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.ImpersonatedUser == nil || e.ImpersonatedUser.Username != "ann" {
			continue
		}
		events = append(events, e)
		lines = append(lines, fmt.Sprintf("%s %s %s %s/%s %d %s request=%v response=%v", e.Level, e.Stage, e.Verb, e.ObjectRef.Resource, e.ObjectRef.Name,
			e.ResponseStatus.Code, e.Annotations["authorization.k8s.io/decision"], e.RequestObject != nil, e.ResponseObject != nil))
	}
	want := `RequestResponse ResponseComplete create configmaps/x 201 allow request=true response=true
RequestResponse ResponseComplete patch configmaps/x 200 allow request=true response=true
Request ResponseComplete delete configmaps/x 200 allow request=false response=false
Metadata ResponseComplete get secrets/none 403 forbid request=false response=false
Request ResponseStarted watch configmaps/ 200 allow request=false response=false
Request ResponseComplete watch configmaps/ 200 allow request=false response=false`
	if got := strings.Join(lines, "\n"); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	e := events[0]
	if e.AuditID != "my-id" || e.User.Username != "kubernetes-admin" || e.UserAgent != "test" || len(e.SourceIPs) != 1 || e.SourceIPs[0] != "127.0.0.1" ||
		e.RequestURI != configMaps || e.ObjectRef.APIVersion != "v1" || e.ObjectRef.Namespace != "default" || e.Kind != "Event" || e.APIVersion != "audit.k8s.io/v1" {
		t.Errorf("%+v", e)
	}
	if got := string(e.RequestObject.Raw); !strings.Contains(got, `"kind":"ConfigMap"`) || !strings.Contains(got, `"a":"b"`) {
		t.Errorf("request %s", got)
	}
	if got := string(e.ResponseObject.Raw); !strings.Contains(got, `"uid":`) || strings.Contains(got, "managedFields") {
		t.Errorf("response %s", got)
	}
	if got := e.Annotations["authorization.k8s.io/reason"]; !strings.HasPrefix(got, "RBAC: allowed by RoleBinding") {
		t.Errorf("reason %q", got)
	}
	if got := string(events[1].RequestObject.Raw); got != `{"data":{"a":"c"}}` {
		t.Errorf("patch %s", got)
	}
}
