package plugins_test

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/apiserver/admission"
	"skiff/internal/identity"
)

func podRule(verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: verbs}
}

// roleRule is a rule about roles themselves; without names it is about all.
func roleRule(resource, verb string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{rbacv1.GroupName}, Resources: []string{resource}, ResourceNames: names, Verbs: []string{verb}}
}

func TestEscalation(t *testing.T) {
	clusterRole := func(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: meta(name), Rules: rules}
	}
	role := func(rules ...rbacv1.PolicyRule) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "r"}, Rules: rules}
	}
	ref := func(kind, name string) rbacv1.RoleRef {
		return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
	}
	to := func(user string) []rbacv1.Subject {
		return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}}
	}
	binding := func(kind, name string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "b"}, RoleRef: ref(kind, name), Subjects: to("bob")}
	}
	everywhere := func(name string) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: meta("b"), RoleRef: ref("ClusterRole", name), Subjects: to("bob")}
	}
	give := func(user, name string) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: meta(user), RoleRef: ref("ClusterRole", name), Subjects: to(user)}
	}
	aggregated := clusterRole("agg")
	aggregated.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}
	empty := clusterRole("agg")
	empty.AggregationRule = &rbacv1.AggregationRule{}
	finalized := role(podRule("delete"))
	finalized.Finalizers, finalized.OwnerReferences = []string{"x.example/f"}, []metav1.OwnerReference{{Name: "o"}}
	local := role(podRule("get"))
	local.Name = "local"

	e := start(t, local, clusterRole("reader", podRule("get")), clusterRole("escalator", roleRule("roles", "escalate"), roleRule("clusterroles", "escalate", "agg")),
		clusterRole("binder", roleRule("clusterroles", "bind", "cluster-admin")),
		give("bob", "reader"), give("eve", "escalator"), give("ben", "binder"), give("ada", "cluster-admin"),
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "zoe"}, RoleRef: ref("ClusterRole", "cluster-admin"), Subjects: to("zoe")})
	const group = ".rbac.authorization.k8s.io"
	user := func(name string) *identity.User {
		return &identity.User{Name: name, Groups: []string{identity.GroupAuthenticated}}
	}
	e.eventually(func() bool { // until the authorizer has heard of the last binding
		_, err := e.admit(admission.Attributes{Object: role(podRule("delete")), User: user("zoe")}, "roles"+group)
		return err == nil
	})
	const more = " is attempting to grant RBAC permissions not currently held:\n"
	const all = `{APIGroups:["*"], Resources:["*"], Verbs:["*"]}` + "\n" + `{NonResourceURLs:["*"], Verbs:["*"]}`
	for _, tt := range []struct {
		name, resource, user string
		attrs                admission.Attributes
		want                 string
	}{
		{"what he has", "roles", "bob", admission.Attributes{Object: role(podRule("get"))}, ""},
		{"more than he has", "roles", "bob", admission.Attributes{Object: role(podRule("get", "delete"))},
			`roles.rbac.authorization.k8s.io "r" is forbidden: user "bob" (groups=["system:authenticated"])` + more + `{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}`},
		{"for all namespaces what he has in one", "clusterroles", "zoe", admission.Attributes{Object: clusterRole("r", podRule("get"))},
			`clusterroles.rbac.authorization.k8s.io "r" is forbidden: user "zoe" (groups=["system:authenticated"])` + more + `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`},
		{"with escalate", "roles", "eve", admission.Attributes{Object: role(podRule("delete"))}, ""},
		{"with escalate on another", "clusterroles", "eve", admission.Attributes{Object: clusterRole("r", podRule("delete"))},
			`clusterroles.rbac.authorization.k8s.io "r" is forbidden: user "eve" (groups=["system:authenticated"])` + more + `{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}`},
		{"in a larger role", "roles", "bob", admission.Attributes{Operation: admission.Update, Object: role(podRule("delete")), Old: role()},
			`roles.rbac.authorization.k8s.io "r" is forbidden: user "bob" (groups=["system:authenticated"])` + more + `{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}`},
		{"by the garbage collector", "roles", "bob", admission.Attributes{Operation: admission.Update, Object: role(podRule("delete")), Old: finalized}, ""},
		{"aggregation", "clusterroles", "bob", admission.Attributes{Object: aggregated},
			`clusterroles.rbac.authorization.k8s.io "agg" is forbidden: must have cluster-admin privileges to use the aggregationRule`},
		{"no longer aggregated", "clusterroles", "bob", admission.Attributes{Operation: admission.Update, Object: clusterRole("agg"), Old: aggregated},
			`clusterroles.rbac.authorization.k8s.io "agg" is forbidden: must have cluster-admin privileges to use the aggregationRule`},
		{"aggregation of nothing", "clusterroles", "bob", admission.Attributes{Object: empty}, ""},
		{"aggregation with escalate", "clusterroles", "eve", admission.Attributes{Operation: admission.Update, Object: aggregated, Old: aggregated}, ""},
		{"aggregation by an administrator", "clusterroles", "ada", admission.Attributes{Object: aggregated}, ""},
		{"a binding to what he has", "rolebindings", "bob", admission.Attributes{Object: binding("ClusterRole", "reader")}, ""},
		{"a binding to a role of the namespace", "rolebindings", "bob", admission.Attributes{Object: binding("Role", "local")}, ""},
		{"a binding to nothing", "rolebindings", "bob", admission.Attributes{Object: binding("ClusterRole", "none")}, `clusterrole.rbac.authorization.k8s.io "none" not found`},
		{"a binding to nothing in the namespace", "rolebindings", "bob", admission.Attributes{Object: binding("Role", "none")}, `role.rbac.authorization.k8s.io "none" not found`},
		{"a binding to all", "rolebindings", "bob", admission.Attributes{Object: binding("ClusterRole", "cluster-admin")},
			`rolebindings.rbac.authorization.k8s.io "b" is forbidden: user "bob" (groups=["system:authenticated"])` + more + all},
		{"a binding to all everywhere", "clusterrolebindings", "zoe", admission.Attributes{Object: everywhere("cluster-admin")},
			`clusterrolebindings.rbac.authorization.k8s.io "b" is forbidden: user "zoe" (groups=["system:authenticated"])` + more + all},
		{"with bind", "clusterrolebindings", "ben", admission.Attributes{Object: everywhere("cluster-admin")}, ""},
		{"with bind on another", "clusterrolebindings", "ben", admission.Attributes{Object: everywhere("reader")},
			`clusterrolebindings.rbac.authorization.k8s.io "b" is forbidden: user "ben" (groups=["system:authenticated"])` + more + `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`},
	} {
		t.Run(tt.name, func(*testing.T) {
			tt.attrs.User = user(tt.user)
			e.wantError(tt.attrs, tt.resource+group, tt.want)
		})
	}
	e.wantError(admission.Attributes{Object: everywhere("cluster-admin"), User: identity.Loopback()}, "clusterrolebindings"+group, "")
}
