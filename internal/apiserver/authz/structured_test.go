package authz_test

import (
	"cmp"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"skiff/internal/apiserver/authz/structured"
	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
)

// hook is a webhook that keeps what it was asked.
type hook struct {
	server *httptest.Server
	mu     sync.Mutex
	asked  []authorizationv1.SubjectAccessReviewSpec
	broken bool
	answer func(*authorizationv1.SubjectAccessReviewSpec) authorizationv1.SubjectAccessReviewStatus
}

func newHook(t *testing.T) *hook {
	h := &hook{answer: func(*authorizationv1.SubjectAccessReviewSpec) authorizationv1.SubjectAccessReviewStatus {
		return authorizationv1.SubjectAccessReviewStatus{}
	}}
	h.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.broken {
			// Another try would not help.
			http.Error(w, "broken", http.StatusNotFound)
			return
		}
		h.asked = append(h.asked, review.Spec)
		review.Status = h.answer(&review.Spec)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(h.server.Close)
	return h
}

func (h *hook) questions() (out []authorizationv1.SubjectAccessReviewSpec) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(out, h.asked...)
}

func (h *hook) kubeconfig(t *testing.T) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["hook"] = &clientcmdapi.Cluster{Server: h.server.URL, CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.server.Certificate().Raw})}
	config.Contexts["hook"] = &clientcmdapi.Context{Cluster: "hook"}
	config.CurrentContext = "hook"
	path := filepath.Join(t.TempDir(), "hook.kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

const webhookConfig = `
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: hook
  webhook:
    timeout: 3s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: %s
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: %s}
    matchConditions:
    - expression: has(request.resourceAttributes)
    - expression: request.resourceAttributes.namespace == 'default' && !('system:serviceaccounts' in request.groups)
- {type: Node, name: node}
- {type: RBAC, name: rbac}
`

func as(t *testing.T, tc *testcluster.Cluster, user string) *kubernetes.Clientset {
	t.Helper()
	config := rest.CopyConfig(tc.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	return kubernetes.NewForConfigOrDie(config)
}

func TestWebhook(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	h.answer = func(s *authorizationv1.SubjectAccessReviewSpec) authorizationv1.SubjectAccessReviewStatus {
		a := s.ResourceAttributes
		selected := a.LabelSelector != nil && a.LabelSelector.Requirements[0].Key == "mine"
		return authorizationv1.SubjectAccessReviewStatus{
			Allowed: s.User == "ann" && (a.Verb == "get" || selected), Denied: a.Resource == "secrets", Reason: "the hook says so",
		}
	}
	file := filepath.Join(t.TempDir(), "authz.yaml")
	write := func(policy string) {
		t.Helper()
		if err := os.WriteFile(file+".new", fmt.Appendf(nil, webhookConfig, policy, h.kubeconfig(t)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("NoOpinion")
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuthorizationConfig: cluster.AuthorizationConfig{AuthorizationConfigFile: file}}})
	ann := as(t, tc, "ann").CoreV1()
	for range 3 {
		if _, err := ann.ConfigMaps("default").Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Fatalf("allowed by the webhook: %v", err)
		}
	}
	if asked := h.questions(); len(asked) != 1 || asked[0].ResourceAttributes.Name != "kube-root-ca.crt" || asked[0].Groups[0] != "system:authenticated" {
		t.Errorf("asked %+v", asked)
	}
	// Selectors are part of the question (KEP-4601).
	if _, err := ann.ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), `in the namespace "default": the hook says so`) {
		t.Errorf("all: %v", err)
	}
	if _, err := ann.ConfigMaps("default").List(t.Context(), metav1.ListOptions{LabelSelector: "mine in (a,b)", FieldSelector: "metadata.name!=x"}); err != nil {
		t.Errorf("only some: %v", err)
	}
	asked := h.questions()
	last, err := json.Marshal(asked[len(asked)-1].ResourceAttributes)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"namespace":"default","verb":"list","version":"v1","resource":"configmaps","fieldSelector":{"requirements":[{"key":"metadata.name","operator":"NotIn","values":["x"]}]},"labelSelector":{"requirements":[{"key":"mine","operator":"In","values":["a","b"]}]}}`; string(last) != want {
		t.Errorf("asked %s", last)
	}
	if _, err := ann.Secrets("default").Get(t.Context(), "x", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("denied: %v", err)
	}
	// What the conditions leave out is not asked, and members of system:masters
	// never are.
	n := len(h.questions())
	if _, err := ann.ConfigMaps("kube-system").Get(t.Context(), "x", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another namespace: %v", err)
	}
	if _, err := kubernetes.NewForConfigOrDie(tc.Config).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if more := h.questions()[n:]; len(more) != 0 {
		t.Errorf("asked %+v", more)
	}
	// Reviews ask it, too, with what they say about selectors.
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: &authorizationv1.ResourceAttributes{
		Namespace: "default", Verb: "watch", Resource: "pods", Version: "v1", LabelSelector: &authorizationv1.LabelSelectorAttributes{RawSelector: "mine=x"}}}}
	if err := tc.Client.Create(t.Context(), review); err != nil || !review.Status.Allowed || review.Status.Reason != "the hook says so" {
		t.Errorf("%v %+v", err, review.Status)
	}

	// Without the webhook RBAC goes on deciding; after a change of the file
	// everything that would have been asked is refused.
	h.mu.Lock()
	h.broken = true
	h.mu.Unlock()
	if _, err := as(t, tc, "bob").CoreV1().ConfigMaps("default").Get(t.Context(), "x", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("no webhook: %v", err)
	}
	denied := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "bob", ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "get", Resource: "pods"}}}
	if err := tc.Client.Create(t.Context(), denied); err != nil || denied.Status.Denied || !strings.Contains(denied.Status.EvaluationError, "hook") {
		t.Errorf("%v %+v", err, denied.Status)
	}
	write("Deny")
	eventually(t, "the change of the file", func() bool {
		denied := denied.DeepCopy()
		return tc.Client.Create(t.Context(), denied) == nil && denied.Status.Denied
	})
}

// The flags for one webhook are a configuration file in short.
func TestWebhookFlags(t *testing.T) {
	t.Parallel()
	for version, groups := range map[string]string{"": "group", "v1": "groups"} {
		asked := make(chan map[string]any, 10)
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var review map[string]any
			if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
				t.Error(err)
			}
			asked <- review
			review["status"] = map[string]any{"allowed": true}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(review)
		}))
		defer server.Close()
		h := &hook{server: server}
		tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuthorizationConfig: cluster.AuthorizationConfig{
			AuthorizationModes:   []string{"RBAC", "Webhook"},
			AuthorizationWebhook: cluster.AuthorizationWebhook{ConfigFile: h.kubeconfig(t), Version: version, DontCacheAuthorized: true},
		}}})
		for range 2 {
			if _, err := as(t, tc, "ann").CoreV1().ConfigMaps("default").Get(t.Context(), "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Fatalf("allowed by the webhook: %v", err)
			}
			review := <-asked
			spec := review["spec"].(map[string]any)
			if want := "authorization.k8s.io/" + cmp.Or(version, "v1beta1"); review["apiVersion"] != want || spec["user"] != "ann" || spec[groups] == nil {
				t.Errorf("asked %v, in version %s", review, want)
			}
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for text, want := range map[string]string{
		"kind: Pod": "kind AuthorizationConfiguration",
		"{apiVersion: apiserver.config.k8s.io/v1, kind: AuthorizationConfiguration}":                                                                       "authorizers: Required value: at least one authorization mode must be defined",
		"{apiVersion: apiserver.config.k8s.io/v1, kind: AuthorizationConfiguration, authorizers: [{type: Magic, name: x}]}":                                `authorizers[0].type: Unsupported value: "Magic": supported values: "AlwaysAllow", "AlwaysDeny", "Webhook"`,
		"{apiVersion: apiserver.config.k8s.io/v1, kind: AuthorizationConfiguration, authorizers: [{type: Webhook, name: x}]}":                              "authorizers[0].webhook: Required value: required when type=Webhook",
		"{apiVersion: apiserver.config.k8s.io/v1, kind: AuthorizationConfiguration, authorizers: [{type: Webhook, name: x, webhook: {}}]}":                 "authorizers[0].webhook.timeout: Required value",
		"{apiVersion: apiserver.config.k8s.io/v1, kind: AuthorizationConfiguration, authorizers: [{type: AlwaysDeny, name: x}], other: 1}":                 `unknown field "other"`,
		fmt.Sprintf(webhookConfig[:strings.Index(webhookConfig, "    - expression: request")]+"    - expression: request.user\n", "Deny", "/no/such/file"): "authorizers[0].webhook.connectionInfo.kubeConfigFile",
	} {
		if _, err := structured.Parse([]byte(text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngives %v, want %s", text, err, want)
		}
	}
}
