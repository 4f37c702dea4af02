package audit

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/clock"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

func parse(t testing.TB, rules string) *Policy {
	t.Helper()
	p, err := ParsePolicy([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\n" + rules))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicy(t *testing.T) {
	p := parse(t, `
omitStages: [RequestReceived]
rules:
- {level: None, users: [noise], verbs: [watch]}
- {level: Metadata, userGroups: [ops], omitStages: [Panic]}
- {level: Request, resources: [{group: "", resources: ["pods/*", "*/proxy"]}, {group: "*", resources: [leases], resourceNames: [mine]}]}
- {level: RequestResponse, namespaces: [secret], resources: [{group: apps}]}
- {level: Metadata, namespaces: [""]}
- {level: Request, nonResourceURLs: ["/version", "/logs/*"]}
`)
	user := func(name string, groups ...string) *identity.User { return &identity.User{Name: name, Groups: groups} }
	for _, tt := range []struct {
		a    authz.Attributes
		want auditv1.Level
	}{
		{authz.Attributes{User: user("noise"), Verb: "watch", Resource: "pods", Namespace: "a"}, "None"},
		{authz.Attributes{User: user("noise"), Verb: "list", Resource: "pods", Subresource: "log", Namespace: "a"}, "Request"},
		{authz.Attributes{User: user("x", "ops"), Verb: "list", Resource: "pods", Namespace: "a"}, "Metadata"},
		{authz.Attributes{User: user("x"), Verb: "get", Resource: "pods", Namespace: "a"}, "Request"},
		{authz.Attributes{User: user("x"), Verb: "get", Resource: "services", Subresource: "proxy", Namespace: "a"}, "Request"},
		{authz.Attributes{User: user("x"), Verb: "get", Resource: "services", Namespace: "a"}, "None"},
		{authz.Attributes{User: user("x"), Verb: "get", Group: "coordination.k8s.io", Resource: "leases", Namespace: "a", Name: "mine"}, "Request"},
		{authz.Attributes{User: user("x"), Verb: "get", Group: "coordination.k8s.io", Resource: "leases", Namespace: "a", Name: "yours"}, "None"},
		{authz.Attributes{User: user("x"), Verb: "get", Group: "apps", Resource: "deployments", Subresource: "scale", Namespace: "secret"}, "RequestResponse"},
		{authz.Attributes{User: user("x"), Verb: "get", Group: "apps", Resource: "deployments", Namespace: "a"}, "None"},
		{authz.Attributes{User: user("x"), Verb: "get", Resource: "nodes"}, "Metadata"},
		{authz.Attributes{User: user("x"), Verb: "get", Path: "/version"}, "Request"},
		{authz.Attributes{User: user("x"), Verb: "get", Path: "/logs/a/b"}, "Request"},
		{authz.Attributes{User: user("x"), Verb: "get", Path: "/healthz"}, "None"},
		{authz.Attributes{Verb: "get", Resource: "pods", Namespace: "a"}, "Request"},
	} {
		if got := p.match(&tt.a).Level; got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.a, got, tt.want)
		}
	}
	if got := fmt.Sprint(p.rules[1].OmitStages); got != "[Panic RequestReceived]" {
		t.Errorf("stages %s", got)
	}
}

func TestPolicyErrors(t *testing.T) {
	head := "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
	for text, want := range map[string]string{
		"kind: Policy":                        "must be of apiVersion audit.k8s.io/v1",
		head:                                  "it has no rules",
		head + "rules: [{level: Everything}]": `rules[0].level: Unsupported value: "Everything"`,
		head + "rules: [{}]":                  "rules[0].level: Required value",
		head + "rules: [{level: None, wrong: 1}]":                               `unknown field "rules[0].wrong"`,
		head + "rules: [{level: None, nonResourceURLs: [/x], namespaces: [a]}]": "rules cannot apply to both regular resources and non-resource URLs",
		head + "rules: [{level: None, nonResourceURLs: [/a*b]}]":                "rules[0].nonResourceURLs[0]",
		head + "rules: [{level: None, resources: [{resourceNames: [x]}]}]":      "using resourceNames requires at least one resource",
		head + "omitStages: [Never]\nrules: [{level: None}]":                    `omitStages[0]: Invalid value: "Never"`,
	} {
		if _, err := ParsePolicy([]byte(text)); err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), `"wrong"`, `"rules[0].wrong"`), want) {
			t.Errorf("%s\ngives %v, want %s", text, err, want)
		}
	}
}

func event(i int) *auditv1.Event {
	e := &auditv1.Event{Level: auditv1.LevelMetadata, AuditID: ID(fmt.Sprint("id-", i)), Stage: auditv1.StageResponseComplete, Verb: "get", RequestURI: "/x"}
	e.User.Username, e.User.Groups = "ann", []string{"a", "b"}
	return e
}

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := NewLog(LogOptions{Path: path, MaxSize: 1, MaxBackups: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	big := event(0)
	big.UserAgent = strings.Repeat("x", 1000)
	for range 5000 {
		if err := l.Write(big); err != nil {
			t.Fatal(err)
		}
	}
	// Old files are removed in the background.
	var names []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		names = names[:0]
		for _, e := range entries {
			info, err := e.Info()
			if err == nil && info.Size() > 1<<20 {
				t.Fatalf("%s has %d bytes", e.Name(), info.Size())
			}
			names = append(names, e.Name())
		}
		if len(names) == 3 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if len(names) != 3 {
		t.Errorf("files %v", names)
	}
	if got := legacy(event(1)); !strings.Contains(got, ` AUDIT: id="id-1" stage="ResponseComplete" ip="<unknown>" method="get" user="ann" groups="\"a\",\"b\"" as="<self>" asgroups="<lookup>" user-agent="" namespace="<none>" uri="/x" response="<deferred>"`) {
		t.Error(got)
	}
	if _, err := NewLog(LogOptions{Path: path, Format: "xml"}); err == nil {
		t.Error("a format that does not exist")
	}
	if _, err := NewLog(LogOptions{Path: "/no/such/folder/x"}); err == nil {
		t.Error("a file that cannot be written")
	}
}

func TestWebhook(t *testing.T) {
	batches, fail := make(chan auditv1.EventList, 10), make(chan int, 2)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case code := <-fail:
			http.Error(w, "later", code)
			return
		default:
		}
		var list auditv1.EventList
		if err := json.NewDecoder(r.Body).Decode(&list); err != nil || list.Kind != "EventList" || list.APIVersion != "audit.k8s.io/v1" {
			t.Errorf("%v %s %s", err, list.APIVersion, list.Kind)
		}
		batches <- list
	}))
	defer server.Close()
	config := clientcmdapi.NewConfig()
	config.Clusters["hook"] = &clientcmdapi.Cluster{Server: server.URL, CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}
	config.Contexts["hook"] = &clientcmdapi.Context{Cluster: "hook"}
	config.CurrentContext = "hook"
	path := filepath.Join(t.TempDir(), "hook.kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 10)
	w, err := NewWebhook(WebhookOptions{Kubeconfig: path, MaxSize: 3, MaxWait: 50 * time.Millisecond, Buffer: 7, InitialBackoff: time.Millisecond}, func(err error) { lost <- err })
	if err != nil {
		t.Fatal(err)
	}
	// A full batch goes at once, the rest when the time is up; a failure that
	// passes is tried again.
	fail <- http.StatusServiceUnavailable
	for i := range 4 {
		if err := w.Write(event(i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"id-0 id-1 id-2", "id-3"} {
		var got []string
		for _, e := range (<-batches).Items {
			got = append(got, string(e.AuditID))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
	// What does not pass is lost, and said to be; the buffer is bounded.
	fail <- http.StatusBadRequest
	if err := w.Write(event(5), event(6), event(7)); err != nil {
		t.Fatal(err)
	}
	if err := <-lost; !strings.Contains(err.Error(), "3 audit events are lost") {
		t.Error(err)
	}
	if err := w.Write(make([]*auditv1.Event, 8)...); err == nil {
		t.Error("the buffer has no bound")
	}
	// Nothing is lost at the end.
	if err := w.Write(event(9)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-batches; len(got.Items) != 1 || got.Items[0].AuditID != "id-9" {
		t.Errorf("%+v", got)
	}
}

func TestNothingIsRecordedOfNothing(t *testing.T) {
	a := &Auditor{Policy: parse(t, "rules: [{level: None}]"), Sink: Sinks{}, Clock: clock.RealClock{}}
	r, err := a.Begin("x", httptest.NewRequest("GET", "/", nil), &authz.Attributes{Verb: "get", Path: "/"})
	if r != nil || err != nil {
		t.Fatal(r, err)
	}
	// All methods are good on nothing.
	r.Answering(200, true)
	r.Impersonated(&identity.User{}, "")
	r.End(nil, true)
	Annotate(NewContext(t.Context(), r), "k", "v")
	if r.WantsRequest() || r.WantsResponse() {
		t.Error("wants bodies")
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, resources: [{group: '', resources: ['pods/*']}]}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePolicy(data)
		if err != nil {
			return
		}
		rule := p.match(&authz.Attributes{User: &identity.User{Name: "u"}, Verb: "get", Resource: "pods", Subresource: "log", Namespace: "a", Name: "n"})
		if rule.Level != auditv1.LevelNone && rule.OmitManagedFields == nil {
			t.Error("a rule without an answer about managed fields")
		}
	})
}
