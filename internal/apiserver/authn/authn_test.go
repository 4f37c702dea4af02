package authn_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/internal/cluster/testcluster"
)

// whoAmI asks the server over HTTP who the holder of the token is.
func whoAmI(t *testing.T, tc *testcluster.Cluster, token string) (authenticationv1.UserInfo, int, string) {
	t.Helper()
	config := rest.AnonymousClientConfig(tc.Config)
	config.BearerToken = token
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	var status int
	result := set.AuthenticationV1().RESTClient().Post().Resource("selfsubjectreviews").
		Body(&authenticationv1.SelfSubjectReview{}).Do(t.Context()).StatusCode(&status)
	review := &authenticationv1.SelfSubjectReview{}
	err = result.Into(review)
	text := ""
	if err != nil {
		text = err.Error()
	}
	return review.Status.UserInfo, status, text
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 10*time.Second, true,
		func(context.Context) (bool, error) { return condition(), nil })
	if err != nil {
		t.Fatal("waited in vain")
	}
}

func TestServiceAccountTokens(t *testing.T) {
	tc := testcluster.Start(t)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{
		ServiceAccountName: "app", Containers: []corev1.Container{{Name: "c", Image: "i"}}, TerminationGracePeriodSeconds: new(int64)}}
	if err := tc.Client.Create(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	if err := tc.Client.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	tokenFor := func(spec authenticationv1.TokenRequestSpec) string {
		t.Helper()
		request := &authenticationv1.TokenRequest{Spec: spec}
		if err := tc.Client.SubResource("token").Create(t.Context(), account, request); err != nil {
			t.Fatal(err)
		}
		return request.Status.Token
	}
	plain := tokenFor(authenticationv1.TokenRequestSpec{})
	bound := tokenFor(authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p"}})
	foreign := tokenFor(authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})

	user, status, text := whoAmI(t, tc, bound)
	if status != http.StatusCreated || user.Username != "system:serviceaccount:default:app" || user.UID != string(account.UID) {
		t.Fatalf("%d %s %+v", status, text, user)
	}
	if got := strings.Join(user.Groups, " "); got != "system:serviceaccounts system:serviceaccounts:default system:authenticated" {
		t.Errorf("groups %s", got)
	}
	if got := user.Extra["authentication.kubernetes.io/pod-name"]; len(got) != 1 || got[0] != "p" {
		t.Errorf("extra %v", user.Extra)
	}
	for name, token := range map[string]string{"foreign": foreign, "changed": plain[:len(plain)-8] + "AAAAAAAA", "nonsense": "x"} {
		if _, status, _ := whoAmI(t, tc, token); status != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, status)
		}
	}

	// With what they are bound to, tokens end.
	if err := tc.Client.Delete(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { _, status, _ := whoAmI(t, tc, bound); return status == http.StatusUnauthorized })
	if _, status, text := whoAmI(t, tc, plain); status != http.StatusCreated {
		t.Errorf("a token that is not bound to the pod: %d %s", status, text)
	}
	if err := tc.Client.Delete(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	again := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}}
	if err := tc.Client.Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { _, status, _ := whoAmI(t, tc, plain); return status == http.StatusUnauthorized })
}

func TestBootstrapTokens(t *testing.T) {
	tc := testcluster.Start(t)
	secret := func(id string, data map[string]string) {
		t.Helper()
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken,
			StringData: map[string]string{"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}}
		for key, value := range data {
			s.StringData[key] = value
		}
		if err := tc.Client.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	secret("aaaaaa", map[string]string{"auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token"})
	secret("bbbbbb", map[string]string{"expiration": time.Now().Add(-time.Hour).Format(time.RFC3339)})
	secret("cccccc", map[string]string{"usage-bootstrap-authentication": "false"})
	secret("dddddd", map[string]string{"auth-extra-groups": "system:masters"})
	secret("eeeeee", map[string]string{"expiration": time.Now().Add(time.Hour).Format(time.RFC3339)})

	eventually(t, func() bool {
		_, status, _ := whoAmI(t, tc, "eeeeee.0123456789abcdef")
		return status == http.StatusCreated
	})
	user, status, text := whoAmI(t, tc, "aaaaaa.0123456789abcdef")
	if status != http.StatusCreated || user.Username != "system:bootstrap:aaaaaa" ||
		strings.Join(user.Groups, " ") != "system:bootstrappers system:bootstrappers:kubeadm:default-node-token system:authenticated" {
		t.Errorf("%d %s %+v", status, text, user)
	}
	for _, token := range []string{
		"aaaaaa.0123456789abcdee", "bbbbbb.0123456789abcdef", "cccccc.0123456789abcdef", "dddddd.0123456789abcdef", "zzzzzz.0123456789abcdef",
	} {
		if user, status, _ := whoAmI(t, tc, token); status != http.StatusUnauthorized {
			t.Errorf("%s: %d %+v", token, status, user)
		}
	}
}

func TestAnonymous(t *testing.T) {
	tc := testcluster.Start(t)
	transport, err := rest.TransportFor(rest.AnonymousClientConfig(tc.Config))
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), "GET", tc.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	for path, want := range map[string]int{
		"/version": 200, "/healthz": 200, "/api/v1/namespaces/kube-public/configmaps/cluster-info": 200,
		"/api/v1/pods": 403, "/metrics": 403, "/api": 403,
	} {
		if got, body := get(path); got != want {
			t.Errorf("%s: %d, want %d: %s", path, got, want, body)
		}
	}
	_, body := get("/api/v1/namespaces/default/pods")
	if want := `pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"`; !strings.Contains(body, want) {
		t.Errorf("got %s", body)
	}
}
