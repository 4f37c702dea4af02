package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"skiff/internal/apiserver/authz"
)

// RuleAllows reports whether the rule allows the request.
func RuleAllows(rule *rbacv1.PolicyRule, a *authz.Attributes) bool {
	if !matches(rule.Verbs, a.Verb, rbacv1.VerbAll) {
		return false
	}
	if !a.IsResource() {
		return matchesPath(rule.NonResourceURLs, a.Path)
	}
	return matches(rule.APIGroups, a.Group, rbacv1.APIGroupAll) &&
		matchesResource(rule.Resources, a.Resource, a.Subresource) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.Name))
}

func matches(list []string, want, all string) bool {
	for _, s := range list {
		if s == want || s == all {
			return true
		}
	}
	return false
}

// matchesResource knows the forms "pods", "pods/status", "*/scale" (any
// resource's scale) and "*" (everything, subresources too).
func matchesResource(list []string, resource, subresource string) bool {
	for _, s := range list {
		if s == rbacv1.ResourceAll {
			return true
		}
		if subresource == "" {
			if s == resource {
				return true
			}
			continue
		}
		if parent, ok := strings.CutSuffix(s, subresource); ok {
			if parent, ok = strings.CutSuffix(parent, "/"); ok && (parent == resource || parent == "*") {
				return true
			}
		}
	}
	return false
}

// matchesPath knows exact paths and, with a star at the end, prefixes.
func matchesPath(list []string, path string) bool {
	for _, s := range list {
		if s == rbacv1.NonResourceAll || s == path {
			return true
		}
		if prefix, ok := strings.CutSuffix(s, "*"); ok && strings.HasPrefix(path, strings.TrimRight(prefix, "*")) {
			return true
		}
	}
	return false
}
