package apiserver_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/audit"
	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// What components in the server's process do is recorded as if they asked over
// HTTP.
func TestInProcessAudit(t *testing.T) {
	dir := t.TempDir()
	policy, log := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	rules := "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n" +
		"- {level: RequestResponse, users: ['system:serviceaccount:kube-system:tidy'], resources: [{group: '', resources: [configmaps]}]}\n" +
		"- {level: Metadata, users: [bob]}\n- {level: None}\n"
	if err := os.WriteFile(policy, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuditPolicyFile: policy, AuditLog: audit.LogOptions{Path: log}}})
	tidy := tc.Set(&identity.User{Name: "system:serviceaccount:kube-system:tidy", Groups: []string{identity.GroupMasters}}).Client
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "m"}, Data: map[string]string{"a": "b"}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	must(tidy.Create(ctx, m))
	must(tidy.Get(ctx, client.ObjectKeyFromObject(m), m))
	must(tidy.Update(ctx, m))
	must(tidy.Patch(ctx, m, client.RawPatch("application/merge-patch+json", []byte(`{"data":{"a":"c"}}`))))
	must(tidy.List(ctx, &corev1.ConfigMapList{}, client.InNamespace("default")))
	w, err := tidy.Watch(ctx, &corev1.ConfigMapList{}, client.InNamespace("default"))
	must(err)
	w.Stop()
	must(tidy.Delete(ctx, m))
	must(tidy.DeleteAllOf(ctx, m, client.InNamespace("default")))
	if err := tidy.Get(ctx, client.ObjectKeyFromObject(m), m); !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	bob := tc.Set(&identity.User{Name: "bob"}).Client
	if err := bob.Delete(ctx, m); !apierrors.IsForbidden(err) {
		t.Fatal(err)
	}
	must(tc.Stop())

	data, err := os.ReadFile(log)
	must(err)
	var lines []string
	for line := range strings.Lines(string(data)) {
		var e auditv1.Event
		must(json.Unmarshal([]byte(line), &e))
		request, response := "", ""
		if e.RequestObject != nil {
			request = " request"
		}
		if e.ResponseObject != nil {
			response = " response"
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %d %s%s%s", e.User.Username[strings.LastIndexByte(e.User.Username, ':')+1:], e.Verb, e.RequestURI, e.ResponseStatus.Code,
			e.Annotations["authorization.k8s.io/decision"], request, response))
	}
	const all, one = "/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/configmaps/m"
	want := []string{
		"tidy create " + all + " 201 allow request response", "tidy get " + one + " 200 allow response", "tidy update " + one + " 200 allow request response",
		"tidy patch " + one + " 200 allow request response", "tidy list " + all + " 200 allow", "tidy watch " + all + " 200 allow",
		"tidy delete " + one + " 200 allow", "tidy deletecollection " + all + " 200 allow", "tidy get " + one + " 404 allow", "bob delete " + one + " 403 forbid",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("recorded\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}
