package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
)

// page is one answer to a list.
type page struct {
	metav1.ListMeta `json:"metadata"`
	Items           []metav1.PartialObjectMetadata `json:"items"`
}

func (p page) names() (out []string) {
	for _, i := range p.Items {
		out = append(out, i.Name)
	}
	return out
}

func (s *server) list(path string, query ...string) page {
	s.Helper()
	var p page
	if err := json.Unmarshal(s.ok(200, call{Method: "GET", Path: path + "?" + encode(query...)}).Body, &p); err != nil {
		s.Fatal(err)
	}
	return p
}

// encode makes a query of keys and values.
func encode(query ...string) string {
	q := url.Values{}
	for i := 0; i < len(query); i += 2 {
		q.Add(query[i], query[i+1])
	}
	return q.Encode()
}

func TestList(t *testing.T) {
	t.Parallel()
	s := start(t)
	t.Run("resource versions", s.listVersions)
	t.Run("chunks", s.listChunks)
	t.Run("selectors", s.listSelectors)
	t.Run("refusals", s.listRefusals)
}

func (s *server) listVersions(t *testing.T) {
	s = s.in(t)
	s.namespace("versions")
	path := "/api/v1/namespaces/versions/configmaps"
	one := s.configMap("versions", "one", "1").GetResourceVersion()
	two := s.configMap("versions", "two", "2").GetResourceVersion()
	s.ok(200, call{Method: "DELETE", Path: path + "/one"})
	three := s.configMap("versions", "three", "3").GetResourceVersion()
	exact, least := string(metav1.ResourceVersionMatchExact), string(metav1.ResourceVersionMatchNotOlderThan)
	for _, c := range []struct {
		what  string
		query []string
		want  []string
		rv    string
	}{
		{"the newest state", nil, []string{"three", "two"}, ""},
		{"any state", []string{"resourceVersion", "0"}, []string{"three", "two"}, ""},
		{"any state with a limit", []string{"resourceVersion", "0", "limit", "100"}, []string{"three", "two"}, ""},
		{"not older, legacy", []string{"resourceVersion", one}, []string{"three", "two"}, ""},
		{"not older", []string{"resourceVersion", one, "resourceVersionMatch", least}, []string{"three", "two"}, ""},
		{"not older, limited", []string{"resourceVersion", one, "resourceVersionMatch", least, "limit", "1"}, []string{"three"}, ""},
		{"exact, legacy with a limit", []string{"resourceVersion", one, "limit", "5"}, []string{"one"}, one},
		{"exactly the first", []string{"resourceVersion", one, "resourceVersionMatch", exact}, []string{"one"}, one},
		{"exactly the second", []string{"resourceVersion", two, "resourceVersionMatch", exact}, []string{"one", "two"}, two},
		{"exactly the last", []string{"resourceVersion", three, "resourceVersionMatch", exact}, []string{"three", "two"}, three},
	} {
		p := s.list(path, c.query...)
		if !slices.Equal(p.names(), c.want) || (c.rv != "" && p.ResourceVersion != c.rv) || p.ResourceVersion == "" {
			t.Errorf("%s: %v at %s, not %v at %s", c.what, p.names(), p.ResourceVersion, c.want, c.rv)
		}
	}
	for _, query := range []string{"resourceVersion=" + three, "resourceVersion=0", "resourceVersion="} {
		s.ok(200, call{Method: "GET", Path: path + "/three?" + query})
	}
	future := s.do(call{Method: "GET", Path: path + "?resourceVersion=999999999"})
	st := future.status(t)
	if future.Code != http.StatusGatewayTimeout || st.Reason != metav1.StatusReasonTimeout || !strings.HasPrefix(st.Message, "Timeout: Too large resource version: 999999999, current: ") ||
		len(st.Details.Causes) != 1 || st.Details.Causes[0].Type != metav1.CauseTypeResourceVersionTooLarge || future.Header.Get("Retry-After") != "1" {
		t.Errorf("the future: %d %s", future.Code, future.Body)
	}
}

func (s *server) listChunks(t *testing.T) {
	s = s.in(t)
	s.namespace("chunks")
	path := "/api/v1/namespaces/chunks/configmaps"
	var want []string
	for i := range 10 {
		name := fmt.Sprintf("c%02d", i)
		s.configMap("chunks", name, "x")
		want = append(want, name)
	}
	first := s.list(path, "limit", "4")
	if first.RemainingItemCount == nil || *first.RemainingItemCount != 6 || first.Continue == "" {
		t.Fatalf("first page: %+v", first.ListMeta)
	}
	// What changes between the pages is not seen.
	s.ok(200, call{Method: "DELETE", Path: path + "/c05"})
	s.configMap("chunks", "c045", "x")
	second := s.list(path, "limit", "4", "continue", first.Continue)
	third := s.list(path, "limit", "4", "continue", second.Continue)
	if got := slices.Concat(first.names(), second.names(), third.names()); !slices.Equal(got, want) {
		t.Errorf("pages: %v", got)
	}
	if second.ResourceVersion != first.ResourceVersion || third.ResourceVersion != first.ResourceVersion || third.Continue != "" || third.RemainingItemCount != nil {
		t.Errorf("later pages: %+v %+v", second.ListMeta, third.ListMeta)
	}
	// With a selector the number of those to come is not known.
	if p := s.list(path, "limit", "4", "labelSelector", "!nothing"); p.RemainingItemCount != nil || p.Continue == "" {
		t.Errorf("with a selector: %+v", p.ListMeta)
	}
	// All in one page: there is nothing to continue.
	if p := s.list(path, "limit", "10"); p.Continue != "" || len(p.Items) != 10 {
		t.Errorf("a limit of all: %+v", p.ListMeta)
	}

	for what, bad := range map[string]string{
		"no base64":       "!!!",
		"no JSON":         base64.RawURLEncoding.EncodeToString([]byte("nonsense")),
		"another version": token(t, first.Continue, func(tok map[string]any) { tok["v"] = "v9" }),
		"no revision":     token(t, first.Continue, func(tok map[string]any) { delete(tok, "rv") }),
		"outside":         token(t, first.Continue, func(tok map[string]any) { tok["start"] = "../../../secrets/kube-system/x" }),
	} {
		if a := s.do(call{Method: "GET", Path: path + "?" + encode("continue", bad)}); a.Code != http.StatusBadRequest || !strings.HasPrefix(a.status(t).Message, "invalid continue token: continue key is not valid: ") {
			t.Errorf("%s: %d %s", what, a.Code, a.Body)
		}
	}
}

func token(t *testing.T, of string, change func(map[string]any)) string {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(of)
	if err != nil {
		t.Fatal(err)
	}
	var tok map[string]any
	if err := json.Unmarshal(data, &tok); err != nil {
		t.Fatal(err)
	}
	change(tok)
	if data, err = json.Marshal(tok); err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

func (s *server) listSelectors(t *testing.T) {
	s = s.in(t)
	s.namespace("selectors")
	path := "/api/v1/namespaces/selectors/secrets"
	for name, labels := range map[string]string{"a": `{"tier":"front","env":"prod"}`, "b": `{"tier":"back"}`, "c": `{"env":"test"}`} {
		kind := map[string]string{"a": "Opaque", "b": "example.com/kind", "c": "Opaque"}[name]
		s.ok(201, call{Method: "POST", Path: path, Body: `{"metadata":{"name":"` + name + `","labels":` + labels + `},"type":"` + kind + `"}`})
	}
	for _, c := range []struct{ key, selector, want string }{
		{"labelSelector", "tier=front", "a"}, {"labelSelector", "tier", "a b"}, {"labelSelector", "!tier", "c"},
		{"labelSelector", "tier in (front,back)", "a b"}, {"labelSelector", "tier notin (front)", "b c"},
		{"labelSelector", "tier!=front", "b c"}, {"labelSelector", "tier=front,env=prod", "a"}, {"labelSelector", "tier==back,!env", "b"},
		{"fieldSelector", "metadata.name=a", "a"}, {"fieldSelector", "metadata.name!=a", "b c"},
		{"fieldSelector", "type=Opaque", "a c"}, {"fieldSelector", "type!=Opaque", "b"},
		{"fieldSelector", "metadata.namespace=selectors,type==Opaque", "a c"}, {"fieldSelector", "metadata.namespace=other", ""},
	} {
		if got := strings.Join(s.list(path, c.key, c.selector).names(), " "); got != c.want {
			t.Errorf("%s %s: %q, not %q", c.key, c.selector, got, c.want)
		}
	}
	// Across namespaces too.
	if got := s.list("/api/v1/secrets", "fieldSelector", "metadata.namespace=selectors,metadata.name=b").names(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("by namespace and name: %v", got)
	}
}

func (s *server) listRefusals(t *testing.T) {
	s = s.in(t)
	for _, c := range []struct {
		query, text string
		code        int
	}{
		{"labelSelector=a%3D%3D%3Db", "unable to parse requirement", 400},
		{"labelSelector=-bad", "unable to parse requirement", 400},
		{"fieldSelector=metadata.name", "invalid selector", 400},
		{"fieldSelector=spec.nonsense%3Dx", `"spec.nonsense" is not a known field selector: only "metadata.name", "metadata.namespace"`, 400},
		{"limit=many", "invalid syntax", 400},
		{"timeoutSeconds=soon", "invalid syntax", 400},
		{"resourceVersion=new", "Invalid value", 400},
		{"resourceVersion=-1", "Invalid value", 400},
		{"resourceVersionMatch=Exact", "resourceVersionMatch is forbidden unless resourceVersion is provided", 422},
		{"resourceVersion=5&resourceVersionMatch=Nearly", `Unsupported value: "Nearly"`, 422},
		{"resourceVersion=0&resourceVersionMatch=Exact", `"exact" is forbidden for resourceVersion "0"`, 422},
		{"resourceVersion=5&continue=x", "invalid continue token", 400},
		{"sendInitialEvents=true", "sendInitialEvents is forbidden for list", 422},
		{"watch=1&resourceVersionMatch=NotOlderThan", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided", 422},
		{"watch=1&sendInitialEvents=true", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan", 422},
		{"watch=1&resourceVersion=new", "Invalid value", 500}, // as upstream
		{"watch=1&fieldSelector=spec.nonsense%3Dx", "is not a known field selector", 400},
	} {
		a := s.do(call{Method: "GET", Path: "/api/v1/namespaces/default/configmaps?" + c.query})
		if a.Code != c.code || !strings.Contains(a.status(t).Message, c.text) {
			t.Errorf("%s: %d %s", c.query, a.Code, a.Body)
		}
	}
}

// TestExpired asks for what was before a restart and a compaction.
func TestExpired(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := "/api/v1/namespaces/default/configmaps"
	var old string
	t.Run("before", func(t *testing.T) {
		s := over(t, testcluster.StartWith(t, cluster.ServerConfig{DataDir: dir}))
		for i := range 4 {
			s.configMap("default", fmt.Sprintf("c%d", i), "1")
		}
		old = s.list(path, "limit", "2").Continue
		s.ok(200, call{Method: "DELETE", Path: path + "/c2"})
	})
	s := over(t, testcluster.StartWith(t, cluster.ServerConfig{DataDir: dir}))
	s.compact()
	expired := func(query string) *metav1.Status {
		t.Helper()
		a := s.do(call{Method: "GET", Path: path + "?" + query})
		st := a.status(t)
		if a.Code != http.StatusGone || st.Reason != metav1.StatusReasonExpired {
			t.Fatalf("%s: %d %s", query, a.Code, a.Body)
		}
		return st
	}
	// A token whose revision is gone yields another one, to go on with.
	st := expired(encode("limit", "2", "continue", old))
	if st.ListMeta.Continue == "" || !strings.Contains(st.Message, "inconsistent list") {
		t.Fatalf("expired: %+v", st)
	}
	if got := s.list(path, "continue", st.ListMeta.Continue).names(); !slices.Equal(got, []string{"c3"}) {
		t.Errorf("continued inconsistently: %v", got)
	}
	if st := expired("resourceVersion=1&resourceVersionMatch=Exact"); st.Message != "The resourceVersion for the provided list is too old." {
		t.Errorf("exact: %s", st.Message)
	}
	if a := s.ok(200, call{Method: "GET", Path: path + "?watch=1&resourceVersion=1"}); !strings.Contains(string(a.Body), `{"type":"ERROR","object":{"kind":"Status"`) || !strings.Contains(string(a.Body), `"message":"too old resource version: 1 (`) {
		t.Errorf("watch: %s", a.Body)
	}
	s.stream(call{Method: "GET", Path: path + "?watch=1"}).expect("ADDED c0", "ADDED c1", "ADDED c3")
}
