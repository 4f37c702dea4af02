package authz_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

func create(t *testing.T, tc *testcluster.Cluster, objects ...client.Object) {
	t.Helper()
	for _, obj := range objects {
		if err := tc.Client.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 10*time.Second, true,
		func(context.Context) (bool, error) { return condition(), nil })
	if err != nil {
		t.Fatalf("waited in vain: %s", what)
	}
}

func TestRolesOfUsers(t *testing.T) {
	tc := testcluster.Start(t)
	bob := tc.Set(&identity.User{Name: "bob", Groups: []string{identity.GroupAuthenticated}}).Client
	read := func() error {
		return bob.Get(t.Context(), client.ObjectKey{Namespace: "kube-public", Name: "cluster-info"}, &corev1.ConfigMap{})
	}
	err := read()
	want := `configmaps "cluster-info" is forbidden: User "bob" cannot get resource "configmaps" in API group "" in the namespace "kube-public"`
	if !apierrors.IsForbidden(err) || err.Error() != want {
		t.Fatalf("got %v", err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "bob"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "bob"}},
	}
	create(t, tc, binding)
	eventually(t, "bob may read", func() bool { return read() == nil })

	// What he may do he may pass on, and no more.
	binding = &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "edit"}, RoleRef: binding.RoleRef,
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "eve"}}}
	if err := bob.Create(t.Context(), binding); !apierrors.IsForbidden(err) {
		t.Errorf("bob makes bindings: %v", err)
	}
	if err := tc.Client.Delete(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "bob"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bob may not read any more", func() bool { return apierrors.IsForbidden(read()) })
}

func TestNodesSeeWhatTheirPodsNeed(t *testing.T) {
	tc := testcluster.Start(t)
	create(t, tc,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}})
	node := func(name string) client.Client {
		return tc.Set(&identity.User{Name: "system:node:" + name, Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}}).Client
	}
	read := func(name string) error {
		return node(name).Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "s"}, &corev1.Secret{})
	}
	want := `secrets "s" is forbidden: User "system:node:n1" cannot get resource "secrets" in API group "" in the namespace "default": no relationship found between node 'n1' and this object`
	if err := read("n1"); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{
		NodeName: "n1", TerminationGracePeriodSeconds: new(int64),
		Containers: []corev1.Container{{Name: "c", Image: "i", EnvFrom: []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}}}}},
	}}
	create(t, tc, pod)
	eventually(t, "n1 may read the secret", func() bool { return read("n1") == nil })
	if err := read("n2"); !apierrors.IsForbidden(err) {
		t.Errorf("n2 reads the secret: %v", err)
	}
	if err := node("n2").Delete(t.Context(), pod.DeepCopy()); !apierrors.IsForbidden(err) {
		t.Errorf("n2 deletes n1's pod: %v", err)
	}
	if err := node("n1").Delete(t.Context(), pod); err != nil {
		t.Errorf("n1 deletes its pod: %v", err)
	}
	eventually(t, "n1 may not read the secret any more", func() bool { return apierrors.IsForbidden(read("n1")) })
}
