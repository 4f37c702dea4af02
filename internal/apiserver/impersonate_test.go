package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
)

// allow gives a subject rules in the whole cluster.
func allow(t *testing.T, tc *testcluster.Cluster, name string, subject rbacv1.Subject, rules ...rbacv1.PolicyRule) {
	t.Helper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: []rbacv1.Subject{subject},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}}
	for _, obj := range []client.Object{role, binding} {
		if err := tc.Client.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

func rule(verbs, group, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, " "), APIGroups: []string{group}, Resources: strings.Split(resources, " "), ResourceNames: names}
}

// TestImpersonation acts as service accounts, which show their own tokens, so
// that the headers are all the test's.
func TestImpersonation(t *testing.T) {
	t.Parallel()
	tc := testcluster.Start(t)
	const auth = "authentication.k8s.io"
	accounts := map[string]*caller{}
	for _, name := range []string{"legacy", "info", "accounts", "nodes", "own-node", "nobody"} {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: name, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		for _, obj := range []client.Object{account, pod} {
			if err := tc.Client.Create(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
		}
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name}}}
		if err := tc.Client.SubResource("token").Create(t.Context(), account, request); err != nil {
			t.Fatal(err)
		}
		config := rest.AnonymousClientConfig(tc.Config)
		config.BearerToken = request.Status.Token
		httpClient, err := rest.HTTPClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		accounts[name] = &caller{t, tc.URL(), httpClient}
	}
	subject := func(name string) rbacv1.Subject {
		return rbacv1.Subject{Kind: "ServiceAccount", Namespace: "default", Name: name}
	}
	reviews := func(mode string) rbacv1.PolicyRule {
		return rule("impersonate-on:"+mode+":create", auth, "selfsubjectreviews")
	}
	allow(t, tc, "legacy", subject("legacy"), rule("impersonate", "", "users groups serviceaccounts"), rule("impersonate", auth, "uids userextras/scopes"))
	allow(t, tc, "info", subject("info"), rule("impersonate:user-info", auth, "users", "ann", "system:anonymous"), rule("impersonate:user-info", auth, "groups", "devs"), rule("impersonate:user-info", auth, "userextras/example.com/team"), reviews("user-info"))
	allow(t, tc, "accounts", subject("accounts"), rule("impersonate:serviceaccount", auth, "serviceaccounts", "nobody"), reviews("serviceaccount"))
	allow(t, tc, "nodes", subject("nodes"), rule("impersonate:arbitrary-node", auth, "nodes", "n2"), reviews("arbitrary-node"))
	allow(t, tc, "own-node", subject("own-node"), rule("impersonate:associated-node", auth, "nodes"), reviews("associated-node"))

	for _, tt := range []struct {
		by, headers, want string
	}{
		{"legacy", "User=ann", "ann [system:authenticated]"},
		{"legacy", "User=ann Group=devs Group=ops Uid=7 Extra-Scopes=a", "ann [devs ops system:authenticated] 7 map[scopes:[a]]"},
		{"legacy", "User=ann Extra-Other=a", "is forbidden"},
		{"legacy", "User=system:serviceaccount:default:nobody", "system:serviceaccount:default:nobody [system:serviceaccounts system:serviceaccounts:default system:authenticated]"},
		{"legacy", "User=system:anonymous", `User "system:anonymous" cannot create resource`},
		{"legacy", "User=ann Group=system:unauthenticated", `User "ann" cannot create resource`},
		{"legacy", "Group=devs", "without impersonating a user name"},
		{"nobody", "User=ann", "is forbidden"},
		{"info", "User=ann", "ann [system:authenticated]"},
		{"info", "User=ann Group=devs Extra-Example.com%2fteam=blue", "ann [devs system:authenticated]  map[example.com/team:[blue]]"},
		{"info", "User=bob", "is forbidden"},
		{"info", "User=ann Group=system:masters", "is forbidden"},
		{"info", "User=system:serviceaccount:default:nobody", "is forbidden"},
		{"info", "User=system:node:n1", "is forbidden"},
		{"accounts", "User=system:serviceaccount:default:nobody", "system:serviceaccount:default:nobody [system:serviceaccounts system:serviceaccounts:default system:authenticated]"},
		{"accounts", "User=system:serviceaccount:default:legacy", "is forbidden"},
		{"accounts", "User=system:serviceaccount:default:nobody Group=x", "is forbidden"},
		{"nodes", "User=system:node:n2", "system:node:n2 [system:nodes system:authenticated]"},
		{"nodes", "User=system:node:n1", "is forbidden"},
		{"own-node", "User=system:node:n1", "system:node:n1 [system:nodes system:authenticated]"},
		{"own-node", "User=system:node:n2", "is forbidden"},
	} {
		var headers [][2]string
		for _, h := range strings.Fields(tt.headers) {
			name, value, _ := strings.Cut(h, "=")
			headers = append(headers, [2]string{"Impersonate-" + name, value})
		}
		got := accounts[tt.by].review(headers)
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s as %s: %s, want %s", tt.by, tt.headers, got, tt.want)
		}
	}
	for mode, want := range map[string]float64{"legacy": 5, "user-info": 2, "serviceaccount": 1, "arbitrary-node": 1, "associated-node": 1} {
		if got := testcluster.Metric(t, tc.Metrics, "apiserver_impersonation_attempts_total", "mode="+mode, "decision=allowed"); got != want {
			t.Errorf("%v attempts in the mode %s were allowed, want %v", got, mode, want)
		}
	}
	if got := testcluster.Metric(t, tc.Metrics, "apiserver_impersonation_attempts_total", "mode=", "decision=denied"); got != 10 {
		t.Errorf("%v attempts were denied", got)
	}
	for _, mode := range []string{"legacy", "user-info", "serviceaccount", "arbitrary-node", "associated-node"} {
		for _, decision := range []string{"allowed", "denied"} {
			if testcluster.Metric(t, tc.Metrics, "apiserver_impersonation_authorization_attempts_total", "mode="+mode, "decision="+decision) == 0 {
				t.Errorf("no right was %s in the mode %s", decision, mode)
			}
		}
	}
	// A constrained right to act as somebody is one for the named actions only.
	got := accounts["info"].do("GET", "/api/v1/namespaces/default/pods", nil, "Impersonate-User", "ann")
	if got.StatusCode != 403 || !strings.Contains(got.body, "impersonate-on:user-info:list") {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

// review asks who one is.
func (c *caller) review(headers [][2]string) string {
	c.t.Helper()
	body := strings.NewReader(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
	request, err := http.NewRequestWithContext(c.t.Context(), "POST", c.url+"/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
	if err != nil {
		c.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		request.Header.Add(h[0], h[1])
	}
	response, err := c.client.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Message string `json:"message"`
		Status  json.RawMessage
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		c.t.Fatal(err)
	}
	if response.StatusCode != 201 {
		return answer.Message
	}
	var status authenticationv1.SelfSubjectReviewStatus
	if err := json.Unmarshal(answer.Status, &status); err != nil {
		c.t.Fatal(err)
	}
	u := status.UserInfo
	text := fmt.Sprint(u.Username, " ", slices.Clone(u.Groups), " ", u.UID)
	if len(u.Extra) > 0 {
		text += fmt.Sprint(" ", u.Extra)
	}
	return text
}
