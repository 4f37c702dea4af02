package rbac

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/apis/checks/checkstest"
)

func TestRoles(t *testing.T) {
	role := checkstest.Change[*rbacv1.Role]
	r := checkstest.Find(t, Resources(), "roles")
	valid := checkstest.Parse[*rbacv1.Role](t, r, "metadata: {name: 'system:reader'}\nrules: [{verbs: [get], apiGroups: [''], resources: [pods]}]")
	checkstest.Create(t, r, valid,
		role("no rules", func(r *rbacv1.Role) { r.Rules = nil }),
		role("no verbs", func(r *rbacv1.Role) { r.Rules[0].Verbs = nil }, "rules[0].verbs: Required value: verbs must contain at least one value"),
		role("no group", func(r *rbacv1.Role) { r.Rules[0].APIGroups = nil }, "rules[0].apiGroups: Required value: resource rules must supply at least one api group"),
		role("no resource", func(r *rbacv1.Role) { r.Rules[0].Resources = nil }, "rules[0].resources: Required value: resource rules must supply at least one resource"),
		role("paths", func(r *rbacv1.Role) {
			r.Rules[0] = rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/"}}
		},
			"rules[0].nonResourceURLs: Invalid value: namespaced rules cannot apply to non-resource URLs"),
	)
	clusterRole := checkstest.Change[*rbacv1.ClusterRole]
	r = checkstest.Find(t, Resources(), "clusterroles")
	everywhere := checkstest.Parse[*rbacv1.ClusterRole](t, r, "metadata: {name: reader}\nrules: [{verbs: [get], nonResourceURLs: [/healthz]}]")
	checkstest.Create(t, r, everywhere,
		clusterRole("both", func(r *rbacv1.ClusterRole) { r.Rules[0].Resources = []string{"pods"} },
			"rules[0].nonResourceURLs: Invalid value: rules cannot apply to both regular resources and non-resource URLs"),
		clusterRole("empty aggregation", func(r *rbacv1.ClusterRole) { r.AggregationRule = &rbacv1.AggregationRule{} },
			"aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"),
		clusterRole("bad aggregation", func(r *rbacv1.ClusterRole) {
			r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In"}}}}}
		}, "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
			"aggregationRule.clusterRoleSelectors[0]: Invalid value: invalid label selector."),
	)
	old := everywhere.DeepCopy()
	old.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In", Values: []string{"-"}}}}}}
	checkstest.Update(t, r, old, clusterRole("as before", func(r *rbacv1.ClusterRole) { r.Rules = nil },
		"aggregationRule.clusterRoleSelectors[0]: Invalid value: invalid label selector."))
	if msgs := r.ValidateName("a/b", false); len(msgs) == 0 {
		t.Error("a slash is allowed in names")
	}
}

func TestBindings(t *testing.T) {
	change := checkstest.Change[*rbacv1.RoleBinding]
	r := checkstest.Find(t, Resources(), "rolebindings")
	valid := checkstest.Parse[*rbacv1.RoleBinding](t, r, `
metadata: {name: readers, namespace: default}
roleRef: {kind: Role, name: reader}
subjects: [{kind: User, name: ann}, {kind: Group, name: devs}, {kind: ServiceAccount, name: bot, namespace: ci}]
`)
	if valid.RoleRef.APIGroup != rbacv1.GroupName || valid.Subjects[0].APIGroup != rbacv1.GroupName ||
		valid.Subjects[1].APIGroup != rbacv1.GroupName || valid.Subjects[2].APIGroup != "" {
		t.Errorf("wrong defaults: %+v", valid)
	}
	checkstest.Create(t, r, valid,
		change("group", func(b *rbacv1.RoleBinding) { b.RoleRef.APIGroup = "apps" }, `roleRef.apiGroup: Unsupported value: supported values: "rbac.authorization.k8s.io"`),
		change("kind", func(b *rbacv1.RoleBinding) { b.RoleRef.Kind = "User" }, `roleRef.kind: Unsupported value: supported values: "Role", "ClusterRole"`),
		change("no name", func(b *rbacv1.RoleBinding) { b.RoleRef.Name = "" }, "roleRef.name: Required value: "),
		change("nobody", func(b *rbacv1.RoleBinding) { b.Subjects[0].Name = "" }, "subjects[0].name: Required value: "),
		change("subject kind", func(b *rbacv1.RoleBinding) { b.Subjects[0].Kind = "Robot" },
			`subjects[0].kind: Unsupported value: supported values: "ServiceAccount", "User", "Group"`),
		change("account here", func(b *rbacv1.RoleBinding) { b.Subjects[2].Namespace = "" }),
		change("account group", func(b *rbacv1.RoleBinding) { b.Subjects[2].APIGroup = "x" }, `subjects[2].apiGroup: Unsupported value: supported values: ""`),
	)
	checkstest.Update(t, r, valid,
		change("subjects", func(b *rbacv1.RoleBinding) { b.Subjects = nil }),
		change("role", func(b *rbacv1.RoleBinding) { b.RoleRef.Name = "admin" }, "roleRef: Invalid value: cannot change roleRef"),
	)
	if got := r.Cells(valid); got[1] != "Role/reader" || got[3] != "ann" || got[4] != "devs" || got[5] != "ci/bot" {
		t.Errorf("shown as %v", got)
	}

	everywhere := checkstest.Change[*rbacv1.ClusterRoleBinding]
	r = checkstest.Find(t, Resources(), "clusterrolebindings")
	cluster := checkstest.Parse[*rbacv1.ClusterRoleBinding](t, r, "metadata: {name: x}\nroleRef: {kind: ClusterRole, name: reader}\nsubjects: [{kind: ServiceAccount, name: bot, namespace: ci}]")
	checkstest.Create(t, r, cluster,
		everywhere("role", func(b *rbacv1.ClusterRoleBinding) { b.RoleRef.Kind = "Role" }, `roleRef.kind: Unsupported value: supported values: "ClusterRole"`),
		everywhere("account somewhere", func(b *rbacv1.ClusterRoleBinding) { b.Subjects[0].Namespace = "" }, "subjects[0].namespace: Required value: "),
	)
}
