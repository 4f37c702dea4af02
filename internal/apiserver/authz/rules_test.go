package authz_test

import (
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"

	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// TestOwnRules asks the server what users may do, and whether that is all.
func TestOwnRules(t *testing.T) {
	t.Parallel()
	node := &identity.User{Name: "system:node:n", Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}}
	bob := &identity.User{Name: "bob", Groups: []string{identity.GroupAuthenticated}}
	ask := func(tc *testcluster.Cluster, u *identity.User) authorizationv1.SubjectRulesReviewStatus {
		t.Helper()
		review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}
		if err := tc.Set(u).Client.Create(t.Context(), review); err != nil {
			t.Fatal(err)
		}
		return review.Status
	}
	everything := func(s authorizationv1.SubjectRulesReviewStatus) bool {
		for _, r := range s.ResourceRules {
			if r.Verbs[0] == "*" && r.Resources[0] == "*" {
				return true
			}
		}
		return false
	}

	tc := testcluster.Start(t)
	if got := ask(tc, bob); got.Incomplete || got.EvaluationError != "" || len(got.ResourceRules) == 0 || len(got.NonResourceRules) == 0 || everything(got) {
		t.Errorf("a user's rules: %+v", got)
	}
	if got := ask(tc, node); !got.Incomplete || got.EvaluationError != "node authorizer does not support user rule resolution" {
		t.Errorf("a node's rules: %+v", got)
	}
	if got := ask(tc, &identity.User{Name: "root", Groups: []string{identity.GroupMasters, identity.GroupAuthenticated}}); !everything(got) {
		t.Errorf("an administrator's rules: %+v", got)
	}

	hook := cluster.AuthorizationWebhook{ConfigFile: newHook(t).kubeconfig(t)}
	tc = testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuthorizationConfig: cluster.AuthorizationConfig{
		AuthorizationModes: []string{"Webhook", "AlwaysAllow"}, AuthorizationWebhook: hook}}})
	if got := ask(tc, bob); !got.Incomplete || !strings.Contains(got.EvaluationError, "webhook authorizer does not support user rule resolution") || !everything(got) {
		t.Errorf("a user's rules where a webhook and everything allow: %+v", got)
	}
}
