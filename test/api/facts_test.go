package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "sigs.k8s.io/json"
)

// facts reads the lines of a file that was made by asking upstream's v1.36.3.
func facts(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimRight(string(text), "\n"), "\n")
}

// compare reports lines that only one side has, but for the exceptions, which
// must be needed.
func compare(t *testing.T, got, want, lacking, extra []string) {
	t.Helper()
	match := func(list []string, line string) bool {
		return slices.ContainsFunc(list, func(e string) bool {
			prefix, open := strings.CutSuffix(e, "*")
			return line == e || (open && strings.HasPrefix(line, prefix))
		})
	}
	differences := func(what string, here, there, exceptions []string) {
		needed := map[string]bool{}
		for _, line := range here {
			if slices.Contains(there, line) {
				continue
			}
			if !match(exceptions, line) {
				t.Errorf("%s: %s", what, line)
			}
			for _, e := range exceptions {
				if match([]string{e}, line) {
					needed[e] = true
				}
			}
		}
		for _, e := range exceptions {
			if !needed[e] {
				t.Errorf("the exception %q is needed no longer: remove it", e)
			}
		}
	}
	differences("missing", want, got, lacking)
	differences("only here", got, want, extra)
}

func TestFacts(t *testing.T) {
	t.Parallel()
	s := start(t)
	t.Run("resources", s.resources)
	t.Run("columns", s.columns)
	t.Run("paths", s.paths)
	t.Run("defaults", s.defaults)
	t.Run("metrics", s.metrics)
}

func (s *server) resources(t *testing.T) {
	_, lists, err := s.kube.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, list := range lists {
		if list.GroupVersion == "autoscaling/v1" {
			continue // upstream's facts are of the preferred versions
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				continue
			}
			line := []string{r.Name}
			if len(r.ShortNames) > 0 {
				line = append(line, strings.Join(r.ShortNames, ","))
			}
			line = append(line, list.GroupVersion, fmt.Sprint(r.Namespaced), r.Kind, strings.Join(r.Verbs, ","), strings.Join(r.Categories, ","))
			got = append(got, strings.Join(line, " "))
		}
	}
	// Upstream's cluster has no metrics server.
	compare(t, got, facts(t, "api-resources.txt"), nil, []string{"nodes metrics.k8s.io/*", "pods metrics.k8s.io/*"})
}

func (s *server) columns(t *testing.T) {
	var got []string
	want := facts(t, "table-columns.txt")
	for _, line := range want {
		path, _, _ := strings.Cut(line, ": ")
		a := s.in(t).ok(200, call{Method: "GET", Path: path, Accept: "application/json;as=Table;v=v1;g=meta.k8s.io"})
		var table metav1.Table
		if err := json.Unmarshal(a.Body, &table); err != nil {
			t.Fatal(err)
		}
		var parts []string
		for _, c := range table.ColumnDefinitions {
			kind := c.Type
			if c.Format != "" {
				kind += "/" + c.Format
			}
			parts = append(parts, fmt.Sprintf("%s(%s p%d)", c.Name, kind, c.Priority))
		}
		got = append(got, path+": "+strings.Join(parts, ", "))
	}
	compare(t, got, want, nil, nil)
}

func (s *server) paths(t *testing.T) {
	var got struct{ Paths []string }
	if err := json.Unmarshal(s.in(t).ok(200, call{Method: "GET", Path: "/"}).Body, &got); err != nil {
		t.Fatal(err)
	}
	compare(t, got.Paths, facts(t, "root-paths.txt"), nil, []string{"/apis/metrics.k8s.io*"})
	for _, path := range got.Paths {
		want := http.StatusOK
		if path == "/openapi/v3/" {
			want = http.StatusNotFound // as with upstream: the documents are below it
		}
		if a := s.in(t).do(call{Method: "GET", Path: path}); a.Code != want {
			t.Errorf("%s: %d %s", path, a.Code, a.Body)
		}
	}
}

// defaults compares the objects that upstream makes at its first start.
func (s *server) defaults(t *testing.T) {
	for _, line := range facts(t, "defaults.jsonl") {
		var want unstructured.Unstructured
		if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(line), &want.Object); err != nil {
			t.Fatal(err)
		}
		path := fmt.Sprintf("/apis/%s/%s/%s", want.GetAPIVersion(), strings.ToLower(want.GetKind())+"s", want.GetName())
		path = strings.Replace(path, "classs/", "classes/", 1)
		got := s.in(t).ok(200, call{Method: "GET", Path: path}).object(t)
		got.SetManagedFields(nil)
		for _, u := range []*unstructured.Unstructured{got, &want} {
			for _, field := range []string{"uid", "creationTimestamp", "resourceVersion", "generation"} {
				unstructured.RemoveNestedField(u.Object, "metadata", field)
			}
			unstructured.RemoveNestedField(u.Object, "status")
		}
		if want.GetKind() == "ServiceCIDR" {
			continue // its addresses are the cluster's own
		}
		if !reflect.DeepEqual(got.Object, want.Object) {
			t.Errorf("%s %s:\n%v\nupstream:\n%v", want.GetKind(), want.GetName(), got.Object, want.Object)
		}
	}
}

// metrics compares the names and types of what /metrics shows, once something
// has happened of all that is counted.
func (s *server) metrics(t *testing.T) {
	in := s.in(t)
	in.ok(200, call{Method: "GET", Path: "/api/v1/namespaces"})
	in.ok(200, call{Method: "GET", Path: "/api/v1/namespaces/default/endpoints"})
	in.ok(201, call{Method: "POST", Path: "/api/v1/namespaces/default/services", Body: `{"metadata":{"name":"counted"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`})
	in.stream(call{Method: "GET", Path: "/api/v1/namespaces?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"}).next()
	shown := func() (got []string) {
		a := in.ok(200, call{Method: "GET", Path: "/metrics"})
		for lines := bufio.NewScanner(bytes.NewReader(a.Body)); lines.Scan(); {
			if name, ok := strings.CutPrefix(lines.Text(), "# TYPE "); ok {
				got = append(got, name)
			}
		}
		return got
	}
	// A watch is told of as started a moment after its first event is read.
	in.until("a watch to be counted", func() bool { return slices.Contains(shown(), "apiserver_watch_list_duration_seconds histogram") })
	compare(t, shown(), facts(t, "apiserver-metrics.txt"), lackingMetrics, nil)
}

// lackingMetrics are upstream's that are not shown, and why. A star stands for
// what follows.
var lackingMetrics = []string{
	// Servers do not ask each other what they serve.
	"aggregator_discovery_nopeer_requests_total counter", "aggregator_discovery_peer_aggregated_cache_*",
	// No loop repairs node ports: they are claimed with their Service.
	"apiserver_nodeport_repair_reconcile_errors_total counter",
	// The server's requests of itself are function calls.
	"apiserver_selfrequest_total counter",
	// Of two implementations of validation that upstream compares.
	"apiserver_validation_*",
	// Of upstream's metrics library, which can bound labels.
	"cardinality_enforcement_unexpected_categorizations_total counter",
	// One watch follows the whole store: no resource has bookmarks of its own.
	// Keys that expire have leases of their own.
	"etcd_bookmark_counts gauge", "etcd_bookmark_total counter", "etcd_lease_object_counts histogram",
	// Of connections to etcd, which the embedded engine does not need.
	"grpc_client_*",
	// Of clients and queues, which only the controllers have.
	"rest_client_*", "workqueue_*",
}
