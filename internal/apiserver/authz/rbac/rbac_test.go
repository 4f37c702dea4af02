package rbac

import (
	"fmt"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

func rule(verbs, groups, resources []string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: groups, Resources: resources, ResourceNames: names}
}

func list(s ...string) []string { return s }

func clusterRef(name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{Kind: "ClusterRole", Name: name}
}

func policy() *Authorizer {
	a := New()
	a.setRole(key{"", "view"}, []rbacv1.PolicyRule{rule(list("get", "list"), list(""), list("pods", "pods/log"))})
	a.setRole(key{"", "scaler"}, []rbacv1.PolicyRule{rule(list("update"), list("*"), list("*/scale"))})
	a.setRole(key{"", "all"}, []rbacv1.PolicyRule{
		rule(list("*"), list("*"), list("*")), {Verbs: list("*"), NonResourceURLs: list("*")},
	})
	a.setRole(key{"", "health"}, []rbacv1.PolicyRule{{Verbs: list("get"), NonResourceURLs: list("/healthz", "/livez/*")}})
	a.setRole(key{"prod", "one-secret"}, []rbacv1.PolicyRule{rule(list("get"), list(""), list("secrets"), "s1")})
	bind := func(namespace, name string, ref rbacv1.RoleRef, subjects ...rbacv1.Subject) {
		a.setBinding(nil, &binding{namespace, name, ref, subjects})
	}
	bind("", "viewers", clusterRef("view"), rbacv1.Subject{Kind: "Group", Name: "devs"})
	bind("", "scalers", clusterRef("scaler"), rbacv1.Subject{Kind: "User", Name: "hpa"})
	bind("", "root", clusterRef("all"), rbacv1.Subject{Kind: "User", Name: "root"})
	bind("", "all-health", clusterRef("health"), rbacv1.Subject{Kind: "Group", Name: identity.GroupUnauthenticated})
	bind("", "dangling", clusterRef("nothing"), rbacv1.Subject{Kind: "User", Name: "lost"})
	bind("prod", "local", rbacv1.RoleRef{Kind: "Role", Name: "one-secret"},
		rbacv1.Subject{Kind: "ServiceAccount", Name: "app"}, rbacv1.Subject{Kind: "ServiceAccount", Namespace: "other", Name: "app"})
	bind("prod", "deployers", clusterRef("all"), rbacv1.Subject{Kind: "User", Name: "dora"})
	return a
}

func TestAuthorize(t *testing.T) {
	for _, tt := range []struct {
		user   string
		attrs  authz.Attributes
		want   authz.Decision
		reason string
	}{
		{"bob", authz.Attributes{Verb: "get", Resource: "pods", Namespace: "x"}, authz.NoOpinion, ""},
		{"bob@devs", authz.Attributes{Verb: "get", Resource: "pods", Namespace: "x"}, authz.Allow,
			`RBAC: allowed by ClusterRoleBinding "viewers" of ClusterRole "view" to Group "devs"`},
		{"bob@devs", authz.Attributes{Verb: "get", Resource: "pods", Subresource: "log"}, authz.Allow,
			`RBAC: allowed by ClusterRoleBinding "viewers" of ClusterRole "view" to Group "devs"`},
		{"bob@devs", authz.Attributes{Verb: "get", Resource: "pods", Subresource: "exec"}, authz.NoOpinion, ""},
		{"bob@devs", authz.Attributes{Verb: "delete", Resource: "pods"}, authz.NoOpinion, ""},
		{"bob@devs", authz.Attributes{Verb: "get", Group: "metrics.k8s.io", Resource: "pods"}, authz.NoOpinion, ""},
		{"bob@devs", authz.Attributes{Verb: "get", Path: "/healthz"}, authz.NoOpinion, ""},
		{"hpa", authz.Attributes{Verb: "update", Group: "apps", Resource: "deployments", Subresource: "scale"}, authz.Allow,
			`RBAC: allowed by ClusterRoleBinding "scalers" of ClusterRole "scaler" to User "hpa"`},
		{"hpa", authz.Attributes{Verb: "update", Group: "apps", Resource: "deployments"}, authz.NoOpinion, ""},
		{"hpa", authz.Attributes{Verb: "update", Group: "apps", Resource: "deployments", Subresource: "status"}, authz.NoOpinion, ""},
		{"root", authz.Attributes{Verb: "whatever", Resource: "x", Subresource: "y"}, authz.Allow,
			`RBAC: allowed by ClusterRoleBinding "root" of ClusterRole "all" to User "root"`},
		{"root", authz.Attributes{Verb: "post", Path: "/anything"}, authz.Allow,
			`RBAC: allowed by ClusterRoleBinding "root" of ClusterRole "all" to User "root"`},
		{"x@system:unauthenticated", authz.Attributes{Verb: "get", Path: "/livez/ping"}, authz.Allow,
			`RBAC: allowed by ClusterRoleBinding "all-health" of ClusterRole "health" to Group "system:unauthenticated"`},
		{"x@system:unauthenticated", authz.Attributes{Verb: "get", Path: "/livez"}, authz.NoOpinion, ""},
		{"lost", authz.Attributes{Verb: "get", Resource: "pods"}, authz.NoOpinion,
			`RBAC: clusterrole.rbac.authorization.k8s.io "nothing" not found`},
		{"system:serviceaccount:prod:app", authz.Attributes{Verb: "get", Resource: "secrets", Namespace: "prod", Name: "s1"}, authz.Allow,
			`RBAC: allowed by RoleBinding "local/prod" of Role "one-secret" to ServiceAccount "app/prod"`},
		{"system:serviceaccount:other:app", authz.Attributes{Verb: "get", Resource: "secrets", Namespace: "prod", Name: "s1"}, authz.Allow,
			`RBAC: allowed by RoleBinding "local/prod" of Role "one-secret" to ServiceAccount "app/other"`},
		{"system:serviceaccount:prod:app", authz.Attributes{Verb: "get", Resource: "secrets", Namespace: "prod", Name: "s2"}, authz.NoOpinion, ""},
		{"system:serviceaccount:prod:app", authz.Attributes{Verb: "get", Resource: "secrets", Namespace: "other", Name: "s1"}, authz.NoOpinion, ""},
		{"dora", authz.Attributes{Verb: "delete", Resource: "pods", Namespace: "prod"}, authz.Allow,
			`RBAC: allowed by RoleBinding "deployers/prod" of ClusterRole "all" to User "dora"`},
		{"dora", authz.Attributes{Verb: "delete", Resource: "pods", Namespace: "test"}, authz.NoOpinion, ""},
		{"dora", authz.Attributes{Verb: "delete", Resource: "nodes"}, authz.NoOpinion, ""},
		{"dora", authz.Attributes{Verb: "get", Path: "/metrics"}, authz.NoOpinion, ""},
	} {
		t.Run(fmt.Sprint(tt.user, " ", tt.attrs.Verb, " ", tt.attrs.Resource, tt.attrs.Path), func(t *testing.T) {
			tt.attrs.User = user(tt.user)
			got, reason, err := policy().Authorize(t.Context(), &tt.attrs)
			if got != tt.want || reason != tt.reason || err != nil {
				t.Errorf("got %v, %q, %v; want %v, %q", got, reason, err, tt.want, tt.reason)
			}
		})
	}
}

// user reads name@group.
func user(s string) *identity.User {
	for i := range s {
		if s[i] == '@' {
			return &identity.User{Name: s[:i], Groups: []string{"others", s[i+1:]}}
		}
	}
	return &identity.User{Name: s}
}

func TestIndexFollowsChanges(t *testing.T) {
	a := policy()
	asks := func(who string) bool {
		d, _, _ := a.Authorize(t.Context(), &authz.Attributes{User: user(who), Verb: "get", Resource: "pods"})
		return d == authz.Allow
	}
	viewers := &binding{"", "viewers", clusterRef("view"), []rbacv1.Subject{{Kind: "Group", Name: "devs"}}}
	second := &binding{"", "second", clusterRef("view"), []rbacv1.Subject{{Kind: "Group", Name: "devs"}, {Kind: "User", Name: "eve"}}}
	a.setBinding(nil, second)
	a.setBinding(nil, second) // seen twice
	if !asks("eve") || !asks("x@devs") {
		t.Error("a new binding does not work")
	}
	a.setBinding(second, &binding{"", "second", clusterRef("view"), []rbacv1.Subject{{Kind: "User", Name: "mallory"}}})
	if asks("eve") || !asks("mallory") || !asks("x@devs") {
		t.Error("a changed binding is not followed")
	}
	a.setBinding(viewers, nil)
	if asks("x@devs") {
		t.Error("a deleted binding still works")
	}
	a.dropRole(key{"", "view"})
	if asks("mallory") {
		t.Error("a deleted role still works")
	}
	if n := len(a.mu.grants[subject{true, "devs"}]); n != 0 {
		t.Errorf("%d entries are left of a group without bindings", n)
	}
}

func TestConfirmNoEscalation(t *testing.T) {
	for _, tt := range []struct {
		name  string
		user  string
		rules []rbacv1.PolicyRule
		want  string
	}{
		{"same", "bob@devs", []rbacv1.PolicyRule{rule(list("get"), list(""), list("pods"))}, ""},
		{"everything", "root", []rbacv1.PolicyRule{rule(list("*"), list("*"), list("*"))}, ""},
		{"more", "bob@devs", []rbacv1.PolicyRule{rule(list("get", "watch", "delete"), list(""), list("pods", "nodes"))},
			`user "bob" (groups=["others" "devs"]) is attempting to grant RBAC permissions not currently held:
{APIGroups:[""], Resources:["nodes"], Verbs:["get" "watch" "delete"]}
{APIGroups:[""], Resources:["pods"], Verbs:["watch" "delete"]}`},
		{"paths", "bob@devs", []rbacv1.PolicyRule{{Verbs: list("get"), NonResourceURLs: list("/x")}},
			`user "bob" (groups=["others" "devs"]) is attempting to grant RBAC permissions not currently held:
{NonResourceURLs:["/x"], Verbs:["get"]}`},
		{"unresolved", "lost", []rbacv1.PolicyRule{rule(list("get"), list(""), list("pods"), "a")},
			`user "lost" (groups=[]) is attempting to grant RBAC permissions not currently held:
{APIGroups:[""], Resources:["pods"], ResourceNames:["a"], Verbs:["get"]}; resolution errors: [clusterrole.rbac.authorization.k8s.io "nothing" not found]`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := policy().ConfirmNoEscalation(user(tt.user), "", tt.rules); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestRulesFor(t *testing.T) {
	rules, err := policy().RulesFor(t.Context(), user("dora"), "prod")
	if len(rules.Resources) != 1 || len(rules.NonResources) != 1 || rules.Incomplete || err != nil {
		t.Errorf("got %+v, %v", rules, err)
	}
	if rules, err := policy().RulesFor(t.Context(), user("lost"), "prod"); err == nil || err.Error() != `clusterrole.rbac.authorization.k8s.io "nothing" not found` {
		t.Errorf("got %+v, %v", rules, err)
	}
}

func BenchmarkAuthorize(b *testing.B) {
	a := policy()
	attrs := &authz.Attributes{User: user("bob@devs"), Verb: "list", Resource: "pods", Namespace: "x"}
	b.ReportAllocs()
	for b.Loop() {
		if d, _, _ := a.Authorize(b.Context(), attrs); d != authz.Allow {
			b.Fatal(d)
		}
	}
}
