package bootstrap

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func all(t *testing.T) []client.Object {
	t.Helper()
	objects, err := desired(Options{
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.5/16")}, CA: []byte("ca"), FrontProxies: FrontProxies{CA: []byte("front"), AllowedNames: []string{"front-proxy-client"}, Username: []string{"X-Remote-User"}},
		Server: "https://192.0.2.1:6443",
	})
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func find[T client.Object](t *testing.T, objects []client.Object, name string) T {
	t.Helper()
	for _, obj := range objects {
		if typed, ok := obj.(T); ok && obj.GetName() == name {
			return typed
		}
	}
	t.Fatalf("there is no %s", name)
	panic("unreachable")
}

func TestDesired(t *testing.T) {
	objects := all(t)
	seen := map[key]bool{}
	for _, obj := range objects {
		if seen[keyOf(obj)] {
			t.Errorf("%T %s is there twice", obj, obj.GetName())
		}
		seen[keyOf(obj)] = true
	}
	if cidr := find[*networkingv1.ServiceCIDR](t, objects, "kubernetes"); len(cidr.Spec.CIDRs) != 1 || cidr.Spec.CIDRs[0] != "10.43.0.0/16" {
		t.Errorf("Service range %v", cidr.Spec.CIDRs)
	}
	if info := find[*corev1.ConfigMap](t, objects, "extension-apiserver-authentication"); info.Data["client-ca-file"] != "ca" || info.Data["requestheader-client-ca-file"] != "front" {
		t.Errorf("authentication info %v", info.Data)
	}
	// Every binding refers to a role that is there.
	for _, obj := range objects {
		switch b := obj.(type) {
		case *rbacv1.ClusterRoleBinding:
			find[*rbacv1.ClusterRole](t, objects, b.RoleRef.Name)
		case *rbacv1.RoleBinding:
			find[*rbacv1.Role](t, objects, b.RoleRef.Name)
		}
	}
}

func TestAggregatedRolesWorkFromTheBeginning(t *testing.T) {
	objects := all(t)
	role := func(name string) []rbacv1.PolicyRule { return find[*rbacv1.ClusterRole](t, objects, name).Rules }
	for _, tt := range []struct {
		owner, part string
		want        bool
	}{
		{"view", "system:aggregate-to-view", true},
		{"edit", "system:aggregate-to-edit", true},
		{"edit", "view", true},
		{"admin", "edit", true},
		{"admin", "system:aggregate-to-admin", true},
		{"view", "edit", false},
		{"edit", "admin", false},
		{"cluster-admin", "admin", true},
	} {
		if got, _ := validation.Covers(role(tt.owner), role(tt.part)); got != tt.want {
			t.Errorf("%s covers %s: %v, want %v", tt.owner, tt.part, got, tt.want)
		}
	}
}

func TestNothingIsWrittenWhereNothingDiffers(t *testing.T) {
	for _, obj := range all(t) {
		changed, err := reconcile(obj.DeepCopyObject().(client.Object), obj)
		if err != nil || changed != nil {
			t.Errorf("%T %s: would write %v, %v", obj, obj.GetName(), changed, err)
		}
	}
}

func TestReconcile(t *testing.T) {
	objects := all(t)
	t.Run("rights come back, extra ones stay", func(t *testing.T) {
		want := find[*rbacv1.ClusterRole](t, objects, "system:discovery")
		existing := want.DeepCopy()
		extra := rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/extra"}}
		existing.Rules = []rbacv1.PolicyRule{extra}
		existing.Labels = nil
		changed, err := reconcile(existing, want)
		if err != nil || changed == nil {
			t.Fatal(changed, err)
		}
		got := changed.(*rbacv1.ClusterRole)
		if ok, missing := validation.Covers(got.Rules, append(want.Rules, extra)); !ok {
			t.Errorf("lacks %v", missing)
		}
		if got.Labels["kubernetes.io/bootstrapping"] != "rbac-defaults" {
			t.Errorf("labels %v", got.Labels)
		}
	})
	t.Run("protected", func(t *testing.T) {
		want := find[*rbacv1.ClusterRole](t, objects, "system:discovery")
		existing := want.DeepCopy()
		existing.Rules = nil
		existing.Annotations = map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}
		if changed, err := reconcile(existing, want); err != nil || changed != nil {
			t.Errorf("got %v, %v", changed, err)
		}
	})
	t.Run("another role", func(t *testing.T) {
		want := find[*rbacv1.ClusterRoleBinding](t, objects, "system:basic-user")
		existing := want.DeepCopy()
		existing.RoleRef.Name = "cluster-admin"
		if _, err := reconcile(existing, want); !errors.Is(err, errRecreate) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("flow schema", func(t *testing.T) {
		want := find[*flowcontrolv1.FlowSchema](t, objects, "service-accounts")
		existing := want.DeepCopy()
		existing.Spec.MatchingPrecedence = 77
		changed, err := reconcile(existing, want)
		if err != nil || changed == nil || changed.(*flowcontrolv1.FlowSchema).Spec.MatchingPrecedence != 9000 {
			t.Errorf("got %v, %v", changed, err)
		}
		existing.Annotations[autoupdateSpec] = "false"
		if changed, err := reconcile(existing, want); err != nil || changed != nil {
			t.Errorf("opted out: got %v, %v", changed, err)
		}
	})
	t.Run("authority", func(t *testing.T) {
		want := find[*corev1.ConfigMap](t, objects, "cluster-info")
		existing := want.DeepCopy()
		existing.Data = map[string]string{"kubeconfig": "old", "jws-kubeconfig-abcdef": "kept"}
		changed, err := reconcile(existing, want)
		if err != nil || changed == nil {
			t.Fatal(changed, err)
		}
		got := changed.(*corev1.ConfigMap).Data
		if got["kubeconfig"] != want.Data["kubeconfig"] || got["jws-kubeconfig-abcdef"] != "kept" {
			t.Errorf("got %v", got)
		}
	})
}

// TestGated has what upstream makes and lets nodes do only with a feature.
func TestGated(t *testing.T) {
	read := func(gates ...string) (names []string, nodes []rbacv1.PolicyRule) {
		t.Helper()
		enabled := func(gate string) bool { return slices.Contains(gates, gate) }
		objects, err := readPolicy(enabled)
		if err != nil {
			t.Fatal(err)
		}
		for _, obj := range objects {
			names = append(names, fmt.Sprintf("%T %s", obj, obj.GetName()))
		}
		if nodes, err = NodeRules(enabled); err != nil {
			t.Fatal(err)
		}
		return names, nodes
	}
	without, fewer := read()
	with, more := read("ClusterTrustBundle")
	got := slices.DeleteFunc(with, func(name string) bool { return slices.Contains(without, name) })
	slices.Sort(got)
	want := []string{
		"*v1.ClusterRole system:cluster-trust-bundle-discovery",
		"*v1.ClusterRole system:controller:kube-apiserver-serving-clustertrustbundle-publisher",
		"*v1.ClusterRoleBinding system:cluster-trust-bundle-discovery",
		"*v1.ClusterRoleBinding system:controller:kube-apiserver-serving-clustertrustbundle-publisher",
	}
	if !slices.Equal(got, want) {
		t.Errorf("with the feature there are %q, want %q", got, want)
	}
	bundles := []rbacv1.PolicyRule{{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"clustertrustbundles"}, Verbs: []string{"get", "list", "watch"}}}
	if ok, _ := validation.Covers(more, bundles); !ok || len(more) != len(fewer)+1 {
		t.Errorf("with the feature nodes have %d rules, without %d", len(more), len(fewer))
	}
}
