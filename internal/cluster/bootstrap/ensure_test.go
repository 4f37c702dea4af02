package bootstrap_test

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/bootstrap"
	"skiff/internal/cluster/testcluster"
)

func options(tc *testcluster.Cluster) bootstrap.Options {
	return bootstrap.Options{
		ServiceCIDRs: []netip.Prefix{tc.ControlPlane.Config.ServiceCIDR}, CA: tc.PKI.CA.PEM, FrontProxies: bootstrap.FrontProxies{CA: tc.PKI.FrontProxyCA.PEM}, Server: tc.URL(),
	}
}

// revision is that of the newest write.
func revision(t *testing.T, tc *testcluster.Cluster) string {
	t.Helper()
	var list corev1.NamespaceList
	if err := tc.Client.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	return list.ResourceVersion
}

func TestEnsure(t *testing.T) {
	tc := testcluster.Start(t) // has called Ensure
	for _, obj := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-node-lease"}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "cluster-admin"}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "extension-apiserver-authentication-reader"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "cluster-info"}},
	} {
		if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			t.Error(err)
		}
	}
	// The server's own Service may still be written: wait for it.
	service := &corev1.Service{}
	for tc.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "kubernetes"}, service) != nil {
		if t.Context().Err() != nil {
			t.Fatal("there is no Service kubernetes")
		}
	}

	// So may the conditions of FlowSchemas.
	for waiting := true; waiting; {
		if t.Context().Err() != nil {
			t.Fatal("FlowSchemas have no conditions")
		}
		var schemas flowcontrolv1.FlowSchemaList
		if err := tc.Client.List(t.Context(), &schemas); err != nil {
			t.Fatal(err)
		}
		waiting = slices.ContainsFunc(schemas.Items, func(s flowcontrolv1.FlowSchema) bool {
			return len(s.Status.Conditions) == 0 || s.Status.Conditions[0].Status != "False"
		})
	}

	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:discovery"}}
	if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(role), role); err != nil {
		t.Fatal(err)
	}
	rules := role.Rules
	role.Rules = nil
	if err := tc.Client.Update(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "system:basic-user"}}
	if err := tc.Client.Delete(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	if err := bootstrap.Ensure(t.Context(), tc.Client, options(tc)); err != nil {
		t.Fatal(err)
	}
	if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(binding), binding); err != nil {
		t.Error(err)
	}
	if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(role), role); err != nil {
		t.Error(err)
	}
	if ok, missing := validation.Covers(role.Rules, rules); !ok {
		t.Errorf("rules %v did not come back", missing)
	}

	before := revision(t, tc)
	if err := bootstrap.Ensure(t.Context(), tc.Client, options(tc)); err != nil {
		t.Fatal(err)
	}
	if after := revision(t, tc); after != before {
		t.Errorf("written to where nothing differs: revision %s, then %s", before, after)
	}
}

func BenchmarkLaterStart(b *testing.B) {
	tc := testcluster.Start(b)
	for b.Loop() {
		if err := bootstrap.Ensure(b.Context(), tc.Client, options(tc)); err != nil {
			b.Fatal(err)
		}
	}
}
