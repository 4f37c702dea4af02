// Package match tells which writes a webhook or an admission policy is meant
// for: by rules over resources and operations, by selectors over namespaces and
// objects, and by conditions in CEL.
package match

import (
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
)

// Target is how a webhook or policy sees a write: in the version that its rules
// name.
type Target struct {
	Version  *apis.Version
	Resource schema.GroupVersionResource
	Kind     schema.GroupVersionKind
}

// Rules select writes by operation and resource.
type Rules struct {
	// Include selects; none selects everything. Exclude takes away of it.
	Include, Exclude []admissionregistrationv1.NamedRuleWithOperations
	// Equivalent also finds writes to another version of a rule's resource.
	Equivalent bool
}

// Webhook returns the rules of a webhook. Without any it is never called.
func Webhook(rules []admissionregistrationv1.RuleWithOperations, policy *admissionregistrationv1.MatchPolicyType) Rules {
	r := Rules{Equivalent: equivalent(policy), Include: make([]admissionregistrationv1.NamedRuleWithOperations, len(rules))}
	for i := range rules {
		r.Include[i].RuleWithOperations = rules[i]
	}
	if len(rules) == 0 {
		r.Include = []admissionregistrationv1.NamedRuleWithOperations{{}}
	}
	return r
}

// Policy returns the rules of a policy or of one of its bindings.
func Policy(m *admissionregistrationv1.MatchResources) Rules {
	if m == nil {
		return Rules{}
	}
	return Rules{Include: m.ResourceRules, Exclude: m.ExcludeResourceRules, Equivalent: equivalent(m.MatchPolicy)}
}

func equivalent(p *admissionregistrationv1.MatchPolicyType) bool {
	return p != nil && *p == admissionregistrationv1.Equivalent
}

// Find returns how the owner of the rules sees the write, if it is meant for
// it.
func (r *Rules) Find(a *admission.Attributes) (Target, bool) {
	if _, excluded := r.find(r.Exclude, a); excluded {
		return Target{}, false
	}
	if len(r.Include) == 0 {
		return target(a, a.RequestVersion()), true
	}
	return r.find(r.Include, a)
}

func target(a *admission.Attributes, v *apis.Version) Target {
	return Target{Version: v, Resource: a.GVR(v), Kind: a.Kind(v)}
}

func (r *Rules) find(rules []admissionregistrationv1.NamedRuleWithOperations, a *admission.Attributes) (Target, bool) {
	asked := a.RequestVersion()
	for i := range rules {
		if selects(&rules[i], a, asked) {
			return target(a, asked), true
		}
	}
	if !r.Equivalent {
		return Target{}, false
	}
	for i := range rules {
		for _, v := range a.Versions() {
			if v != asked && selects(&rules[i], a, v) {
				return target(a, v), true
			}
		}
	}
	return Target{}, false
}

// named reports whether the rules ask for objects' names.
func (r *Rules) named() bool {
	has := func(n admissionregistrationv1.NamedRuleWithOperations) bool { return len(n.ResourceNames) > 0 }
	return slices.ContainsFunc(r.Include, has) || slices.ContainsFunc(r.Exclude, has)
}

func selects(r *admissionregistrationv1.NamedRuleWithOperations, a *admission.Attributes, v *apis.Version) bool {
	return inScope(r.Scope, a) &&
		(slices.Contains(r.Operations, admissionregistrationv1.OperationAll) || slices.Contains(r.Operations, admissionregistrationv1.OperationType(a.Operation))) &&
		(slices.Contains(r.APIGroups, "*") || slices.Contains(r.APIGroups, v.Group)) &&
		(slices.Contains(r.APIVersions, "*") || slices.Contains(r.APIVersions, v.Version)) &&
		slices.ContainsFunc(r.Resources, func(pattern string) bool {
			resource, sub, _ := strings.Cut(pattern, "/")
			return (resource == "*" || resource == a.Resource.Resource) && (sub == "*" || sub == a.Subresource)
		}) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, a.Name))
}

func inScope(scope *admissionregistrationv1.ScopeType, a *admission.Attributes) bool {
	if scope == nil || *scope == admissionregistrationv1.AllScopes {
		return true
	}
	return a.Resource.Namespaced == (*scope == admissionregistrationv1.NamespacedScope)
}

// Exempt reports whether the write is to the configuration of webhooks and
// policies, which they themselves must not lock up.
func Exempt(a *admission.Attributes) bool {
	return a.Resource.Group == admissionregistrationv1.GroupName
}
