package api

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/apiserver/features"
	"skiff/internal/cluster/testcluster"
)

// serving starts a server with the flag --runtime-config and features.
func serving(t *testing.T, flag string, on ...string) *server {
	t.Helper()
	return over(t, testcluster.StartServing(t, flag, on...))
}

// TestBetaResources compares with what upstream serves with api/beta=true and
// the features of the resources. A line is: group version, resource, kind,
// namespaced, verbs, short names, categories.
func TestBetaResources(t *testing.T) {
	t.Parallel()
	s := serving(t, "api/beta=true", features.ClusterTrustBundle)
	_, lists, err := s.kube.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, list := range lists {
		if !strings.Contains(list.GroupVersion, "beta") || strings.HasPrefix(list.GroupVersion, "metrics.k8s.io/") {
			continue
		}
		for _, r := range list.APIResources {
			got = append(got, betaLine(list.GroupVersion, &r))
		}
	}
	lacking := []string{"resource.k8s.io/v1beta2 devicetaintrules*", "certificates.k8s.io/v1beta1 podcertificaterequests*"}
	compare(t, got, facts(t, "beta-resources.txt"), lacking, nil)
}

func betaLine(gv string, r *metav1.APIResource) string {
	return strings.TrimRight(fmt.Sprintf("%s %s %s %v %s %s %s", gv, r.Name, r.Kind, r.Namespaced,
		strings.Join(r.Verbs, ","), strings.Join(r.ShortNames, ","), strings.Join(r.Categories, ",")), " ")
}

// TestTurnedOff shows that clients do not see what is turned off, in any of the
// ways in which they could.
func TestTurnedOff(t *testing.T) {
	t.Parallel()
	s := serving(t, "apps/v1/daemonsets=false,batch/v1=false,networking.k8s.io/v1beta1/ipaddresses=true,certificates.k8s.io/v1beta1=true")
	for _, tt := range []struct {
		path string
		code int
	}{
		{"/apis/apps/v1/deployments", 200},
		{"/apis/apps/v1/daemonsets", 404},
		{"/apis/apps/v1/namespaces/default/daemonsets", 404},
		{"/apis/apps", 200},
		{"/apis/batch", 404},
		{"/apis/batch/v1", 404},
		{"/apis/batch/v1/jobs", 404},
		{"/openapi/v3/apis/batch/v1", 404},
		{"/openapi/v3/apis/apps/v1", 200},
		{"/apis/networking.k8s.io/v1beta1/ipaddresses", 200},
		{"/apis/networking.k8s.io/v1beta1/servicecidrs", 404},
		{"/openapi/v3/apis/networking.k8s.io/v1beta1", 200},
		{"/apis/apiregistration.k8s.io/v1/apiservices/v1.batch", 404},
		// Its feature is off.
		{"/apis/certificates.k8s.io/v1beta1/clustertrustbundles", 404},
		{"/apis/certificates.k8s.io/v1beta1", 404},
	} {
		if a := s.do(call{Method: "GET", Path: tt.path}); a.Code != tt.code {
			t.Errorf("%s: %d, want %d: %.200s", tt.path, a.Code, tt.code, a.Body)
		}
	}
	// In a group of which there is something, a Status says that there is nothing.
	for path, text := range map[string]string{
		"/apis/certificates.k8s.io/v1beta1": "the server could not find the requested resource", "/apis/apps/v9": "the server could not find the requested resource",
		"/apis/batch/v1/jobs": "404 page not found", "/apis/batch/v1": "404 page not found",
	} {
		if a := s.do(call{Method: "GET", Path: path}); !strings.Contains(string(a.Body), text) {
			t.Errorf("%s: %s, want %s", path, a.Body, text)
		}
	}
	// What can be seen in both versions is one object.
	const at = "/apis/networking.k8s.io/%s/ipaddresses"
	s.ok(201, call{Method: "POST", Path: fmt.Sprintf(at, "v1beta1"), Body: `{"metadata":{"name":"10.9.8.7"},"spec":{"parentRef":{"resource":"x","name":"y"}}}`})
	for _, version := range []string{"v1", "v1beta1"} {
		u := s.ok(200, call{Method: "GET", Path: fmt.Sprintf(at, version) + "/10.9.8.7"}).object(t)
		if u.GetAPIVersion() != "networking.k8s.io/"+version || get(t, u, "spec", "parentRef", "name") != "y" {
			t.Errorf("%s: %v", version, u.Object)
		}
	}
}

// TestTrustBundles plays a conversation with upstream and compares what is
// answered: the code, the message of a refusal, the names in a list. $CA1 and
// the like stand for certificates.
func TestTrustBundles(t *testing.T) {
	t.Parallel()
	s := serving(t, "certificates.k8s.io/v1beta1=true", features.ClusterTrustBundle)
	text, err := os.ReadFile("testdata/trustanchors.json")
	if err != nil {
		t.Fatal(err)
	}
	var anchors map[string]string
	if err := json.Unmarshal(text, &anchors); err != nil {
		t.Fatal(err)
	}
	fill := func(body string) string {
		for name, certificate := range anchors {
			quoted, err := json.Marshal(certificate)
			if err != nil {
				t.Fatal(err)
			}
			body = strings.ReplaceAll(body, "$"+name, strings.Trim(string(quoted), `"`))
		}
		return body
	}
	for _, line := range facts(t, "trustbundles.jsonl") {
		var row struct {
			Method, Path, User, Message string
			Body                        json.RawMessage
			Code                        int
			Names                       []string
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		c := call{Method: row.Method, Path: row.Path, User: row.User, Body: fill(string(row.Body))}
		if row.Method == "PATCH" {
			c.Type = "application/merge-patch+json"
		}
		a := s.do(c)
		message, names := "", []string(nil)
		switch {
		case a.Code >= 400:
			message = a.status(t).Message
		case row.Names != nil:
			list, err := a.object(t).ToList()
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range list.Items {
				names = append(names, item.GetName())
			}
		}
		if a.Code != row.Code || message != row.Message || fmt.Sprint(names) != fmt.Sprint(row.Names) {
			t.Errorf("%s\n got %d %s %v", line, a.Code, message, names)
		}
		if strings.HasSuffix(row.Path, "clusterrolebindings") {
			s.awaitGrant(t, a.object(t).GetName())
		}
	}
}

// awaitGrant waits until bob may do what the binding lets him.
func (s *server) awaitGrant(t *testing.T, binding string) {
	t.Helper()
	attributes := map[string]string{
		"ctb":    `{"group":"certificates.k8s.io","version":"v1beta1","resource":"clustertrustbundles","verb":"create"}`,
		"attest": `{"group":"certificates.k8s.io","resource":"signers","verb":"attest","name":"a.b/*"}`,
	}[binding]
	s.until("granted: "+binding, func() bool {
		a := s.ok(201, call{Method: "POST", Path: "/apis/authorization.k8s.io/v1/subjectaccessreviews", Body: `{"spec":{"user":"bob","resourceAttributes":` + attributes + `}}`})
		return get(t, a.object(t), "status", "allowed") == true
	})
}

// TestPodsWithoutTheFeature shows that what pods ask for is dropped while its
// feature is off, as it is in upstream.
func TestPodsWithoutTheFeature(t *testing.T) {
	t.Parallel()
	const template = `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}],
		"volumes":[{"name":"v","projected":{"sources":[{"clusterTrustBundle":{"name":"x","path":"p"}}]}}]}}}}`
	sources := func(on ...string) string {
		s := serving(t, "certificates.k8s.io/v1beta1=true", on...)
		u := s.ok(201, call{Method: "POST", Path: "/apis/apps/v1/namespaces/default/deployments", Body: template}).object(t)
		volumes := get(t, u, "spec", "template", "spec", "volumes").([]any)
		text, err := json.Marshal(volumes[0].(map[string]any)["projected"].(map[string]any)["sources"])
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if got := sources(); got != "[{}]" {
		t.Errorf("off: %s", got)
	}
	if got := sources(features.ClusterTrustBundle, features.ClusterTrustBundleProjection); got != `[{"clusterTrustBundle":{"name":"x","path":"p"}}]` {
		t.Errorf("on: %s", got)
	}
}

// TestWithoutTheCoreGroup shows that the parts of a server do without what its
// clients do not see.
func TestWithoutTheCoreGroup(t *testing.T) {
	t.Parallel()
	s := serving(t, "api/all=false,flowcontrol.apiserver.k8s.io/v1=true,apps/v1/deployments=true")
	for path, code := range map[string]int{"/api/v1": 404, "/api/v1/pods": 404, "/apis/apps/v1/deployments": 200, "/apis/apps/v1/daemonsets": 404, "/readyz": 200} {
		if a := s.do(call{Method: "GET", Path: path}); a.Code != code {
			t.Errorf("%s: %d, want %d: %.200s", path, a.Code, code, a.Body)
		}
	}
	lists, err := s.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, list := range lists {
		if !strings.HasPrefix(list.GroupVersion, "metrics.k8s.io/") {
			got = append(got, list.GroupVersion)
		}
	}
	if want := []string{"apps/v1", "flowcontrol.apiserver.k8s.io/v1"}; !slices.Equal(got, want) {
		t.Errorf("controllers are told of %q, want %q", got, want)
	}
	if list := (&corev1.NamespaceList{}); s.Client.List(t.Context(), list) != nil || len(list.Items) == 0 {
		t.Error("parts of the server see no namespaces")
	}
}
