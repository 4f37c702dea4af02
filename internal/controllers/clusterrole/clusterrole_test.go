package clusterrole

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAggregate(t *testing.T) {
	role := func(name, label string, verbs ...string) rbacv1.ClusterRole {
		r := rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": label}}}
		for _, v := range verbs {
			r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{v}})
		}
		return r
	}
	sum := role("sum", "sum", "old")
	sum.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "sum"}}}}
	rules, err := aggregate(&sum, []rbacv1.ClusterRole{role("b", "sum", "watch", "get"), sum, role("a", "sum", "get"), role("c", "other", "delete")})
	if err != nil {
		t.Fatal(err)
	}
	if len(rules) != 2 || rules[0].Verbs[0] != "get" || rules[1].Verbs[0] != "watch" {
		t.Errorf("got %v", rules)
	}
}
