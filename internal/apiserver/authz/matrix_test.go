package authz_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
)

// policy is upstream's bootstrap policy, as read off a running cluster, and a
// plain reading of it to compare with.
type policy struct {
	clusterRoles, roles map[string]rbacv1.ClusterRole // by name, namespace/name
	bindings            []rbacv1.RoleBinding          // namespace "" for ClusterRoleBindings
}

// readLines decodes one object for each line of the file that is of the kind.
func readLines[T any](t *testing.T, file, kind string) (out []T) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var meta metav1.TypeMeta
		var obj T
		if err := json.Unmarshal(line, &meta); err != nil {
			t.Fatal(err)
		}
		if meta.Kind != kind {
			continue
		}
		if err := json.Unmarshal(line, &obj); err != nil {
			t.Fatal(err)
		}
		out = append(out, obj)
	}
	return out
}

func readPolicy(t *testing.T) *policy {
	t.Helper()
	p := &policy{clusterRoles: map[string]rbacv1.ClusterRole{}, roles: map[string]rbacv1.ClusterRole{}}
	for _, r := range readLines[rbacv1.ClusterRole](t, "clusterroles.jsonl", "ClusterRole") {
		p.clusterRoles[r.Name] = r
	}
	for _, r := range readLines[rbacv1.Role](t, "roles.jsonl", "Role") {
		p.roles[r.Namespace+"/"+r.Name] = rbacv1.ClusterRole{Rules: r.Rules}
	}
	for _, b := range readLines[rbacv1.ClusterRoleBinding](t, "clusterrolebindings.jsonl", "ClusterRoleBinding") {
		p.bindings = append(p.bindings, rbacv1.RoleBinding{RoleRef: b.RoleRef, Subjects: b.Subjects})
	}
	p.bindings = append(p.bindings, readLines[rbacv1.RoleBinding](t, "roles.jsonl", "RoleBinding")...)
	return p
}

// addOwn adds what a cluster has on top of upstream's policy, which is named so:
// the node's agent does the work of more components than a kubelet.
func (p *policy) addOwn(t *testing.T, tc *testcluster.Cluster) {
	t.Helper()
	var roles rbacv1.ClusterRoleList
	var bindings rbacv1.ClusterRoleBindingList
	var inside rbacv1.RoleList
	var bound rbacv1.RoleBindingList
	if err := errors.Join(tc.Client.List(t.Context(), &roles), tc.Client.List(t.Context(), &bindings), tc.Client.List(t.Context(), &inside), tc.Client.List(t.Context(), &bound)); err != nil {
		t.Fatal(err)
	}
	for _, r := range inside.Items {
		if strings.HasPrefix(r.Name, "skiff:") {
			p.roles[r.Namespace+"/"+r.Name] = rbacv1.ClusterRole{Rules: r.Rules}
		}
	}
	for _, b := range bound.Items {
		if strings.HasPrefix(b.Name, "skiff:") {
			p.bindings = append(p.bindings, b)
		}
	}
	for _, r := range roles.Items {
		if strings.HasPrefix(r.Name, "skiff:") {
			p.clusterRoles[r.Name] = r
		}
	}
	for _, b := range bindings.Items {
		if strings.HasPrefix(b.Name, "skiff:") {
			p.bindings = append(p.bindings, rbacv1.RoleBinding{RoleRef: b.RoleRef, Subjects: b.Subjects})
		}
	}
}

// rules are a ClusterRole's own and those that it gathers.
func (p *policy) rules(name string) []rbacv1.PolicyRule {
	role := p.clusterRoles[name]
	rules := slices.Clone(role.Rules)
	if role.AggregationRule == nil {
		return rules
	}
	for _, s := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			panic(err)
		}
		for other, r := range p.clusterRoles {
			if other != name && selector.Matches(labels.Set(r.Labels)) {
				rules = append(rules, p.rules(other)...)
			}
		}
	}
	return rules
}

// asked is one question.
type asked struct {
	verb, group, resource, subresource, namespace, name, path string
}

func (p *policy) allows(user string, groups []string, q asked) bool {
	if slices.Contains(groups, "system:masters") {
		return true
	}
	for _, b := range p.bindings {
		if b.Namespace != "" && b.Namespace != q.namespace {
			continue
		}
		bound := slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool {
			switch s.Kind {
			case "User":
				return s.Name == user
			case "Group":
				return slices.Contains(groups, s.Name)
			}
			return user == "system:serviceaccount:"+s.Namespace+":"+s.Name
		})
		if !bound {
			continue
		}
		rules := p.rules(b.RoleRef.Name)
		if b.RoleRef.Kind == "Role" {
			rules = p.roles[b.Namespace+"/"+b.RoleRef.Name].Rules
		}
		if slices.ContainsFunc(rules, q.allowedBy) {
			return true
		}
	}
	return false
}

func (q asked) allowedBy(r rbacv1.PolicyRule) bool {
	has := func(list []string, values ...string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return s == "*" || slices.Contains(values, s) })
	}
	if !has(r.Verbs, q.verb) {
		return false
	}
	if q.path != "" {
		return slices.ContainsFunc(r.NonResourceURLs, func(url string) bool {
			return url == q.path || strings.HasSuffix(url, "*") && strings.HasPrefix(q.path, strings.TrimSuffix(url, "*"))
		})
	}
	resources := []string{q.resource}
	if q.subresource != "" {
		resources = []string{q.resource + "/" + q.subresource, "*/" + q.subresource}
	}
	return has(r.APIGroups, q.group) && has(r.Resources, resources...) && (len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, q.name))
}

// nodeAllows is what upstream documents about nodes: their own objects, what
// their pods need (here: nothing), and the rules of system:node for the rest.
func (p *policy) nodeAllows(node string, q asked) bool {
	own := q.name == node
	in := func(verbs ...string) bool { return slices.Contains(verbs, q.verb) }
	switch q.group + "/" + q.resource {
	case "/secrets", "/configmaps", "/persistentvolumeclaims", "/persistentvolumes", "/serviceaccounts",
		"resource.k8s.io/resourceclaims", "storage.k8s.io/volumeattachments":
		return false
	case "/nodes":
		switch q.subresource {
		case "":
			return in("create", "update", "patch") || own && in("get", "list", "watch")
		case "status":
			return in("update", "patch")
		}
		return false
	case "/pods":
		switch q.subresource {
		case "":
			return in("create", "delete")
		case "status":
			return in("get", "update", "patch")
		case "eviction":
			return in("create")
		}
		return false
	case "coordination.k8s.io/leases":
		return q.namespace == "kube-node-lease" && (in("create") || own && in("get", "update", "patch", "delete"))
	case "storage.k8s.io/csinodes":
		return q.subresource == "" && (in("create") || own && in("get", "update", "patch", "delete"))
	case "resource.k8s.io/resourceslices":
		return q.subresource == "" && in("get", "create", "update", "patch", "delete")
	}
	return slices.ContainsFunc(p.clusterRoles["system:node"].Rules, q.allowedBy)
}

// resources are upstream's, from its discovery.
func resources(t *testing.T) (out []asked) {
	t.Helper()
	data, err := os.ReadFile("testdata/api-resources.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		// NAME [SHORTNAMES] APIVERSION NAMESPACED KIND VERBS [CATEGORIES]
		i := slices.IndexFunc(f, func(s string) bool { return s == "true" || s == "false" })
		if i < 1 {
			continue
		}
		group, _, found := strings.Cut(f[i-1], "/")
		if !found {
			group = ""
		}
		q := asked{group: group, resource: f[0]}
		if f[i] == "true" {
			q.namespace = "some"
		}
		out = append(out, q)
	}
	if len(out) < 60 {
		t.Fatalf("only %d resources", len(out))
	}
	return out
}

// TestMatrix asks for every verb on every resource, on behalf of users of every
// sort, and compares the answers with a plain reading of upstream's policy.
func TestMatrix(t *testing.T) {
	t.Parallel()
	tc := testcluster.Start(t)
	p := readPolicy(t)
	for _, role := range []string{"view", "edit", "admin", "cluster-admin"} {
		binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "matrix-" + role},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: role + "-user"}}}
		p.bindings = append(p.bindings, rbacv1.RoleBinding{RoleRef: binding.RoleRef, Subjects: binding.Subjects})
		if err := tc.Client.Create(t.Context(), binding); err != nil {
			t.Fatal(err)
		}
	}
	p.addOwn(t, tc)
	account := func(namespace, name string) []string {
		return []string{"system:serviceaccount:" + namespace + ":" + name, "system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}
	}
	users := [][]string{ // the user, then its groups
		{"system:anonymous", "system:unauthenticated"}, {"somebody", "system:authenticated"}, {"root", "system:masters", "system:authenticated"},
		{"system:node:n1", "system:nodes", "system:authenticated"}, account("default", "default"), account("kube-system", "generic-garbage-collector"),
		account("kube-system", "deployment-controller"), account("kube-system", "bootstrap-signer"),
		{"system:kube-scheduler", "system:authenticated"}, {"system:kube-controller-manager", "system:authenticated"}, {"system:kube-proxy", "system:authenticated"},
	}
	for _, role := range []string{"view", "edit", "admin", "cluster-admin"} {
		users = append(users, []string{role + "-user", "system:authenticated"})
	}
	verbs := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "bind", "escalate", "approve", "sign", "impersonate"}
	var questions []asked
	all := resources(t)
	for _, sub := range []string{"pods/log", "pods/exec", "pods/eviction", "pods/status", "pods/binding", "nodes/status", "nodes/proxy", "serviceaccounts/token", "services/proxy"} {
		resource, subresource, _ := strings.Cut(sub, "/")
		all = append(all, asked{resource: resource, subresource: subresource, namespace: "some"})
	}
	all = append(all, asked{group: "apps", resource: "deployments", subresource: "scale"}, asked{group: "example.com", resource: "things"},
		asked{group: "certificates.k8s.io", resource: "certificatesigningrequests", subresource: "approval"})
	inside := []asked{{}, {namespace: "default"}, {namespace: "kube-system", name: "extension-apiserver-authentication"}, {namespace: "kube-node-lease", name: "n1"}}
	for _, q := range all {
		scopes := []asked{{}, {name: "n1"}}
		if q.namespace != "" {
			scopes = inside
		}
		for _, q.verb = range verbs {
			for _, at := range scopes {
				q.namespace, q.name = at.namespace, at.name
				questions = append(questions, q)
			}
		}
	}
	for _, path := range []string{"/", "/api", "/apis/apps", "/healthz", "/livez/etcd", "/readyz", "/version", "/version/", "/metrics", "/openapi/v3", "/.well-known/openid-configuration", "/openid/v1/jwks", "/logs"} {
		questions = append(questions, asked{verb: "get", path: path}, asked{verb: "post", path: path})
	}
	wrong := 0
	for _, u := range users {
		user, groups := u[0], u[1:]
		allowed := 0
		for _, q := range questions {
			want := p.allows(user, groups, q)
			if node, ok := strings.CutPrefix(user, "system:node:"); ok && q.path == "" {
				want = want || p.nodeAllows(node, q)
			}
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user, Groups: groups}}
			if q.path != "" {
				review.Spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: q.path, Verb: q.verb}
			} else {
				review.Spec.ResourceAttributes = &authorizationv1.ResourceAttributes{Verb: q.verb, Group: q.group, Version: "v1",
					Resource: q.resource, Subresource: q.subresource, Namespace: q.namespace, Name: q.name}
			}
			if err := tc.Client.Create(t.Context(), review); err != nil {
				t.Fatal(err)
			}
			if review.Status.Allowed {
				allowed++
			}
			if review.Status.Allowed != want {
				if wrong++; wrong <= 20 {
					t.Errorf("%s may %+v: %v, upstream's policy says %v (%s)", user, q, review.Status.Allowed, want, review.Status.Reason)
				}
			}
		}
		if allowed == 0 {
			t.Errorf("%s may do nothing at all", user)
		}
	}
	if wrong > 20 {
		t.Errorf("and %d more", wrong-20)
	}
}

// TestBootstrapPolicy compares what a new cluster has with upstream's.
func TestBootstrapPolicy(t *testing.T) {
	t.Parallel()
	tc := testcluster.Start(t)
	for _, want := range readLines[rbacv1.ClusterRole](t, "clusterroles.jsonl", "ClusterRole") {
		got := &rbacv1.ClusterRole{}
		if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(&want), got); err != nil {
			t.Error(err)
			continue
		}
		if want.AggregationRule != nil {
			// The dump leaves out what a controller fills in.
			got.Rules, want.Rules = nil, nil
		}
		compare(t, "ClusterRole "+want.Name, []any{got.Rules, got.AggregationRule, got.Labels, got.Annotations}, []any{want.Rules, want.AggregationRule, want.Labels, want.Annotations})
	}
	for _, want := range readLines[rbacv1.ClusterRoleBinding](t, "clusterrolebindings.jsonl", "ClusterRoleBinding") {
		got := &rbacv1.ClusterRoleBinding{}
		if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(&want), got); err != nil {
			t.Error(err)
			continue
		}
		compare(t, "ClusterRoleBinding "+want.Name, []any{got.RoleRef, got.Subjects, got.Labels, got.Annotations}, []any{want.RoleRef, want.Subjects, want.Labels, want.Annotations})
	}
	for _, want := range readLines[rbacv1.Role](t, "roles.jsonl", "Role") {
		got := &rbacv1.Role{}
		if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(&want), got); err != nil {
			t.Error(err)
			continue
		}
		compare(t, "Role "+want.Name, []any{got.Rules, got.Labels, got.Annotations}, []any{want.Rules, want.Labels, want.Annotations})
	}
	for _, want := range readLines[rbacv1.RoleBinding](t, "roles.jsonl", "RoleBinding") {
		got := &rbacv1.RoleBinding{}
		if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(&want), got); err != nil {
			t.Error(err)
			continue
		}
		compare(t, "RoleBinding "+want.Name, []any{got.RoleRef, got.Subjects, got.Labels, got.Annotations}, []any{want.RoleRef, want.Subjects, want.Labels, want.Annotations})
	}
}

func compare(t *testing.T, what string, got, want []any) {
	t.Helper()
	for i := range got {
		if !equality.Semantic.DeepEqual(got[i], want[i]) {
			t.Errorf("%s: %s, upstream has %s", what, asJSON(got[i]), asJSON(want[i]))
		}
	}
}

func asJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(data)
}
