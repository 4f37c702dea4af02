package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/component-helpers/auth/rbac/validation"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// Rules returns all rules that the user has in the namespace ("": those of
// ClusterRoleBindings alone). If err is set there may be more.
func (a *Authorizer) Rules(u *identity.User, namespace string) (rules []rbacv1.PolicyRule, err error) {
	var unresolved []error
	a.visit(u, namespace, func(_ *grant, r []rbacv1.PolicyRule, err error) bool {
		if err != nil {
			unresolved = append(unresolved, err)
		}
		rules = append(rules, r...)
		return true
	})
	return rules, utilerrors.NewAggregate(unresolved)
}

// RoleRules returns the rules of the role that a binding in the namespace ("":
// a ClusterRoleBinding) refers to. The error is NotFound if there is none.
func (a *Authorizer) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.rulesLocked(ref, namespace)
}

// RulesFor implements authz.RuleResolver.
func (a *Authorizer) RulesFor(_ context.Context, u *identity.User, namespace string) (out authz.Rules, err error) {
	rules, err := a.Rules(u, namespace)
	for _, r := range rules {
		if len(r.Resources) > 0 {
			out.Resources = append(out.Resources, authorizationv1.ResourceRule{
				Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames,
			})
		}
		if len(r.NonResourceURLs) > 0 {
			out.NonResources = append(out.NonResources, authorizationv1.NonResourceRule{
				Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs,
			})
		}
	}
	return out, err
}

// ConfirmNoEscalation returns an error, in upstream's words, unless the user
// has all of the rules in the namespace.
func (a *Authorizer) ConfirmNoEscalation(u *identity.User, namespace string, rules []rbacv1.PolicyRule) error {
	held, unresolved := a.Rules(u, namespace)
	covered, missing := validation.Covers(held, rules)
	if covered {
		return nil
	}
	var lines []string
	for _, rule := range compact(missing) {
		lines = append(lines, describeRule(&rule))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.Name, u.Groups, strings.Join(slices.Compact(lines), "\n"))
	if unresolved != nil {
		text += fmt.Sprintf("; resolution errors: %v", []error{unresolved})
	}
	return errors.New(text)
}

// compact joins rules for one resource of one group that differ in their verbs
// only.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	type target struct {
		group, resource, name string
	}
	var out []rbacv1.PolicyRule
	first := map[target]int{}
	for _, r := range rules {
		if len(r.APIGroups) != 1 || len(r.Resources) != 1 || len(r.ResourceNames) > 1 || len(r.NonResourceURLs) > 0 {
			out = append(out, r)
			continue
		}
		t := target{group: r.APIGroups[0], resource: r.Resources[0]}
		if len(r.ResourceNames) == 1 {
			t.name = r.ResourceNames[0]
		}
		if i, ok := first[t]; ok {
			out[i].Verbs = append(out[i].Verbs, r.Verbs...)
			continue
		}
		first[t] = len(out)
		out = append(out, *r.DeepCopy())
	}
	return out
}

func describeRule(r *rbacv1.PolicyRule) string {
	var parts []string
	add := func(name string, values []string) {
		if len(values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", name, values))
		}
	}
	add("APIGroups", r.APIGroups)
	add("Resources", r.Resources)
	add("NonResourceURLs", r.NonResourceURLs)
	add("ResourceNames", r.ResourceNames)
	add("Verbs", r.Verbs)
	return "{" + strings.Join(parts, ", ") + "}"
}
