package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDelete(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.namespace("deletes")
	s.serviceAccount("deletes")
	t.Run("finalizers", s.deleteFinalizers)
	t.Run("propagation", s.deletePropagation)
	t.Run("grace", s.deleteGrace)
	t.Run("collections", s.deleteCollections)
	t.Run("eviction", s.eviction)
	t.Run("namespaces", s.deleteNamespaces)
}

func (s *server) deleteFinalizers(t *testing.T) {
	s = s.in(t)
	path := "/api/v1/namespaces/deletes/configmaps/held"
	s.ok(201, call{Method: "POST", Path: "/api/v1/namespaces/deletes/configmaps", Body: `{"metadata":{"name":"held","finalizers":["example.com/a","example.com/b"]}}`})
	first := s.ok(200, call{Method: "DELETE", Path: path}).object(t)
	second := s.ok(200, call{Method: "DELETE", Path: path}).object(t)
	if first.GetDeletionTimestamp() == nil || !first.GetDeletionTimestamp().Equal(second.GetDeletionTimestamp()) || first.GetResourceVersion() != second.GetResourceVersion() || *first.GetDeletionGracePeriodSeconds() != 0 {
		t.Errorf("deleted twice: %v %v", first.Object, second.Object)
	}
	a := s.do(call{Method: "PATCH", Path: path, Type: jsonPatch, Body: `[{"op":"add","path":"/metadata/finalizers/-","value":"example.com/c"}]`})
	if a.Code != 422 || !strings.Contains(a.status(t).Message, `metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"example.com/c"}`) {
		t.Errorf("a new one: %d %s", a.Code, a.Body)
	}
	if a := s.do(call{Method: "POST", Path: "/api/v1/namespaces/deletes/configmaps", Body: `{"metadata":{"name":"held"}}`}); a.Code != 409 || !strings.HasPrefix(a.status(t).Message, `object is being deleted: configmaps "held" already exists`) {
		t.Errorf("made anew meanwhile: %d %s", a.Code, a.Body)
	}
	s.ok(200, call{Method: "PATCH", Path: path, Type: mergePatch, Body: `{"metadata":{"finalizers":["example.com/b"],"deletionTimestamp":null}}`})
	s.ok(200, call{Method: "PATCH", Path: path, Type: mergePatch, Body: `{"metadata":{"finalizers":[]}}`})
	s.ok(404, call{Method: "GET", Path: path})
}

func (s *server) deletePropagation(t *testing.T) {
	s = s.in(t)
	maps := "/api/v1/namespaces/deletes/configmaps"
	for _, c := range []struct {
		options string
		want    []string
		code    int
	}{
		{`{"propagationPolicy":"Foreground"}`, []string{"foregroundDeletion"}, 200},
		{`{"propagationPolicy":"Orphan"}`, []string{"orphan"}, 200},
		{`{"orphanDependents":true}`, []string{"orphan"}, 200},
		{`{"propagationPolicy":"Background"}`, nil, 200},
		{`{"orphanDependents":false}`, nil, 200},
		{`{"kind":"DeleteOptions","apiVersion":"v1"}`, nil, 200},
		{`{"kind":"DeleteOptions","apiVersion":"meta.k8s.io/v1"}`, nil, 200},
	} {
		s.configMap("deletes", "owner", "1")
		s.ok(c.code, call{Method: "DELETE", Path: maps + "/owner", Body: c.options})
		if c.want == nil {
			s.ok(404, call{Method: "GET", Path: maps + "/owner"})
			continue
		}
		if got := s.ok(200, call{Method: "GET", Path: maps + "/owner"}).object(t).GetFinalizers(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", c.options, got)
		}
		// Another policy replaces it.
		s.do(call{Method: "DELETE", Path: maps + "/owner", Body: `{"propagationPolicy":"Background"}`})
		s.ok(404, call{Method: "GET", Path: maps + "/owner"})
	}
	s.configMap("deletes", "owner", "1")
	s.ok(200, call{Method: "PATCH", Path: maps + "/owner", Type: mergePatch, Body: `{"metadata":{"finalizers":["example.com/x"]}}`})
	s.ok(http.StatusAccepted, call{Method: "DELETE", Path: maps + "/owner?orphanDependents=false"})
}

func (s *server) deleteGrace(t *testing.T) {
	s = s.in(t)
	pods := "/api/v1/namespaces/deletes/pods"
	pod := func(name, node string) {
		s.ok(201, call{Method: "POST", Path: pods, Body: fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"nodeName":%q,"containers":[{"name":"c","image":"i"}]}}`, name, node)})
	}
	pod("unscheduled", "")
	s.ok(200, call{Method: "DELETE", Path: pods + "/unscheduled"})
	s.ok(404, call{Method: "GET", Path: pods + "/unscheduled"})

	pod("running", "n1")
	for _, c := range []struct{ query, want string }{{"", "30"}, {"?gracePeriodSeconds=60", "30"}, {"?gracePeriodSeconds=5", "5"}, {"", "5"}} {
		if got := s.ok(200, call{Method: "DELETE", Path: pods + "/running" + c.query}).object(t); fmt.Sprint(*got.GetDeletionGracePeriodSeconds()) != c.want {
			t.Errorf("%q: %d, not %s", c.query, *got.GetDeletionGracePeriodSeconds(), c.want)
		}
	}
	s.ok(200, call{Method: "DELETE", Path: pods + "/running?gracePeriodSeconds=0"})
	s.ok(404, call{Method: "GET", Path: pods + "/running"})

	pod("finished", "n1")
	s.ok(200, call{Method: "PATCH", Path: pods + "/finished/status", Type: mergePatch, Body: `{"status":{"phase":"Succeeded"}}`})
	s.ok(200, call{Method: "DELETE", Path: pods + "/finished"})
	s.ok(404, call{Method: "GET", Path: pods + "/finished"})
	if a := s.do(call{Method: "DELETE", Path: pods + "/finished?gracePeriodSeconds=-1"}); a.Code != 404 {
		t.Errorf("gone: %d", a.Code)
	}
}

func (s *server) deleteCollections(t *testing.T) {
	s = s.in(t)
	maps := "/api/v1/namespaces/deletes/configmaps"
	for i := range 30 {
		s.ok(201, call{Method: "POST", Path: maps, Body: fmt.Sprintf(`{"metadata":{"name":"many-%02d","labels":{"group":"g%d"}}}`, i, i%3)})
	}
	s.ok(200, call{Method: "DELETE", Path: maps + "?labelSelector=group%3Dg0&dryRun=All"})
	s.ok(200, call{Method: "DELETE", Path: maps + "?labelSelector=group%3Dg0"})
	if left := s.list(maps, "labelSelector", "group").names(); len(left) != 20 {
		t.Errorf("left: %v", left)
	}
	s.ok(200, call{Method: "DELETE", Path: maps + "?fieldSelector=metadata.name%3Dmany-01"})
	if left := s.list(maps, "labelSelector", "group").names(); len(left) != 19 {
		t.Errorf("left: %v", left)
	}
	if err := s.kube.CoreV1().ConfigMaps("deletes").DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "group in (g1,g2)", Limit: 10}); err != nil {
		t.Error(err)
	}
	if left := s.list(maps, "labelSelector", "group").names(); len(left) > 9 {
		t.Errorf("left: %v", left)
	}
	if a := s.do(call{Method: "DELETE", Path: "/api/v1/configmaps"}); a.Code != 405 {
		t.Errorf("of all namespaces: %d %s", a.Code, a.Body)
	}
}

func (s *server) eviction(t *testing.T) {
	s = s.in(t)
	pods := "/api/v1/namespaces/deletes/pods"
	for _, name := range []string{"a", "b"} {
		s.ok(201, call{Method: "POST", Path: pods, Body: `{"metadata":{"name":"` + name + `","labels":{"app":"guarded"}},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]}}`})
		s.ok(200, call{Method: "PATCH", Path: pods + "/" + name + "/status", Type: mergePatch, Body: `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`})
	}
	budgets := "/apis/policy/v1/namespaces/deletes/poddisruptionbudgets"
	s.ok(201, call{Method: "POST", Path: budgets, Body: `{"metadata":{"name":"one"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"guarded"}}}}`})
	evict := func(name string) answer {
		return s.do(call{Method: "POST", Path: pods + "/" + name + "/eviction", Body: `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"` + name + `"}}`})
	}
	// The budget is not computed yet.
	if a := evict("a"); a.Code != http.StatusTooManyRequests || a.Header.Get("Retry-After") != "10" || !strings.Contains(string(a.Body), "disruption budget one is still being processed by the server") {
		t.Errorf("unobserved: %d %s", a.Code, a.Body)
	}
	s.ok(200, call{Method: "PATCH", Path: budgets + "/one/status", Type: mergePatch, Body: `{"status":{"observedGeneration":1,"disruptionsAllowed":1,"currentHealthy":2,"desiredHealthy":1,"expectedPods":2}}`})
	if a := evict("a"); a.Code != 201 || a.status(t).Status != metav1.StatusSuccess {
		t.Errorf("allowed: %d %s", a.Code, a.Body)
	}
	pod := s.ok(200, call{Method: "GET", Path: pods + "/a"}).object(t)
	if pod.GetDeletionTimestamp() == nil || !strings.Contains(fmt.Sprint(get(t, pod, "status", "conditions")), "EvictionByEvictionAPI") {
		t.Errorf("evicted: %v", pod.Object["status"])
	}
	a := evict("b")
	st := a.status(t)
	if a.Code != http.StatusTooManyRequests || st.Reason != metav1.StatusReasonTooManyRequests || st.Message != "Cannot evict pod as it would violate the pod's disruption budget." ||
		len(st.Details.Causes) != 1 || st.Details.Causes[0].Type != "DisruptionBudget" || st.Details.Causes[0].Message != "The disruption budget one does not allow evicting pods currently" {
		t.Errorf("refused: %d %s", a.Code, a.Body)
	}
}

// deleteNamespaces: what is ending takes nothing new.
func (s *server) deleteNamespaces(t *testing.T) {
	s = s.in(t)
	s.namespace("ending")
	got := s.ok(200, call{Method: "DELETE", Path: "/api/v1/namespaces/ending"}).object(t)
	if get(t, got, "status", "phase") != "Terminating" || got.GetDeletionTimestamp() == nil {
		t.Errorf("deleted: %v", got.Object)
	}
	a := s.do(call{Method: "POST", Path: "/api/v1/namespaces/ending/configmaps", Body: `{"metadata":{"name":"late"}}`})
	st := a.status(t)
	if a.Code != 403 || !strings.Contains(st.Message, `unable to create new content in namespace ending because it is being terminated`) || st.Details.Causes[0].Type != "NamespaceTerminating" {
		t.Errorf("late: %d %s", a.Code, a.Body)
	}
	if a := s.do(call{Method: "POST", Path: "/api/v1/namespaces/nowhere/configmaps", Body: `{"metadata":{"name":"late"}}`}); a.Code != 404 || a.status(t).Message != `namespaces "nowhere" not found` {
		t.Errorf("nowhere: %d %s", a.Code, a.Body)
	}
	if a := s.do(call{Method: "DELETE", Path: "/api/v1/namespaces/default"}); a.Code != 403 || !strings.Contains(a.status(t).Message, "this namespace may not be deleted") {
		t.Errorf("default: %d %s", a.Code, a.Body)
	}
	s.ok(200, call{Method: "PUT", Path: "/api/v1/namespaces/ending/finalize", Body: `{"metadata":{"name":"ending"},"spec":{"finalizers":[]}}`})
	s.ok(404, call{Method: "GET", Path: "/api/v1/namespaces/ending"})
}
