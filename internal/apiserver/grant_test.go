package apiserver_test

import (
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// grant lets the user do everything with ConfigMaps of the default namespace.
func grant(t *testing.T, tc *testcluster.Cluster, user string) {
	t.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "maps-" + user},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}}}
	binding := &rbacv1.RoleBinding{ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}}}
	if err := tc.Client.Create(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	if err := tc.Client.Create(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	tc.Granted(t, &identity.User{Name: user, Groups: []string{identity.GroupAuthenticated}}, authorizationv1.ResourceAttributes{Namespace: "default", Verb: "create", Resource: "configmaps"})
}
