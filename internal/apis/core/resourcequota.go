package core

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

func resourceQuotas() *apis.Resource {
	return apis.Of[*corev1.ResourceQuota]{
		Names:         apis.Names{Resource: "resourcequotas", Singular: "resourcequota", Kind: "ResourceQuota", ShortNames: []string{"quota"}, Namespaced: true},
		Version:       "v1",
		New:           func() *corev1.ResourceQuota { return &corev1.ResourceQuota{} },
		NewList:       func() runtime.Object { return &corev1.ResourceQuotaList{} },
		ReturnDeleted: true,
		Default: func(q *corev1.ResourceQuota) {
			roundUp(q.Spec.Hard)
			roundUp(q.Status.Hard)
			roundUp(q.Status.Used)
		},
		Warnings:             resourceQuotaWarnings,
		Validate:             func(_ context.Context, q *corev1.ResourceQuota) field.ErrorList { return validateResourceQuota(q) },
		ValidateUpdate:       validateResourceQuotaUpdate,
		HasStatus:            true,
		ValidateStatusUpdate: validateResourceQuotaStatus,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
			columns.String("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."),
			columns.AgeColumn(),
		},
		Cells: resourceQuotaCells,
	}.Resource()
}

func resourceQuotaCells(q *corev1.ResourceQuota) []any {
	var requests, limits []string
	for _, name := range sortedNames(q.Status.Hard) {
		used, hard := q.Status.Used[name], q.Status.Hard[name]
		text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
		if strings.HasPrefix(string(name), "limits") {
			limits = append(limits, text)
		} else {
			requests = append(requests, text)
		}
	}
	return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), columns.Age(q.CreationTimestamp)}
}

func (p *problems) quotaList(at *field.Path, list corev1.ResourceList) {
	for _, name := range sortedNames(list) {
		at := at.Key(string(name))
		p.quotaResourceName(at, name)
		p.quantity(at, name, list[name])
	}
}

func validateResourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	var p problems
	spec := field.NewPath("spec")
	p.quotaList(spec.Child("hard"), q.Spec.Hard)
	p.quotaScopes(spec.Child("scopes"), &q.Spec)
	if q.Spec.ScopeSelector != nil {
		p.quotaScopeSelector(spec.Child("scopeSelector", "matchExpressions"), &q.Spec)
	}
	return p.list()
}

func (p *problems) quotaScopes(at *field.Path, spec *corev1.ResourceQuotaSpec) {
	scopes := sets.New(spec.Scopes...)
	for _, scope := range spec.Scopes {
		if !isQuotaScope(scope) {
			p.invalid(at, spec.Scopes, "unsupported scope")
		}
		p.quotaScopeFits(at, spec, scope, spec.Scopes)
	}
	p.conflictingScopes(at, spec, scopes)
}

func (p *problems) quotaScopeSelector(at *field.Path, spec *corev1.ResourceQuotaSpec) {
	scopes := sets.New[corev1.ResourceQuotaScope]()
	for _, r := range spec.ScopeSelector.MatchExpressions {
		if !isQuotaScope(r.ScopeName) {
			p.invalid(at.Child("scopeName"), r.ScopeName, "unsupported scope")
		}
		p.quotaScopeFits(at, spec, r.ScopeName, spec.ScopeSelector)
		byValue := r.ScopeName == corev1.ResourceQuotaScopePriorityClass || r.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass
		if isQuotaScope(r.ScopeName) && !byValue && r.Operator != corev1.ScopeSelectorOpExists {
			p.invalid(at.Child("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity")
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				p.missing(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) != 0 {
				p.invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector")
			}
		default:
			p.invalid(at.Child("operator"), r.Operator, "not a valid selector operator")
		}
		scopes.Insert(r.ScopeName)
	}
	p.conflictingScopes(at, spec, scopes)
}

func (p *problems) conflictingScopes(at *field.Path, spec *corev1.ResourceQuotaSpec, scopes sets.Set[corev1.ResourceQuotaScope]) {
	if scopes.HasAll(corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort) ||
		scopes.HasAll(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating) {
		p.invalid(at, spec.Scopes, "conflicting scopes")
	}
}

func isQuotaScope(s corev1.ResourceQuotaScope) bool {
	switch s {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating,
		corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
		corev1.ResourceQuotaScopeVolumeAttributesClass:
		return true
	}
	return false
}

// quotaScopeFits checks that what the quota limits can have the scope.
func (p *problems) quotaScopeFits(at *field.Path, spec *corev1.ResourceQuotaSpec, scope corev1.ResourceQuotaScope, value any) {
	for _, name := range sortedNames(spec.Hard) {
		if isQuotaResource(name) && !scopeAppliesTo(scope, name) {
			p.invalid(at, value, "unsupported scope applied to resource")
		}
	}
}

func scopeAppliesTo(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch scope {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		switch name {
		case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU,
			corev1.ResourceRequestsMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory:
			return true
		}
		return false
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	}
	return true
}

func validateResourceQuotaUpdate(_ context.Context, q, old *corev1.ResourceQuota) field.ErrorList {
	p := problems(validateResourceQuota(q))
	if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		p.invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, apivalidation.FieldImmutableErrorMsg)
	}
	return p.list()
}

func validateResourceQuotaStatus(_ context.Context, q, _ *corev1.ResourceQuota) field.ErrorList {
	var p problems
	p.quotaList(field.NewPath("status", "hard"), q.Status.Hard)
	p.quotaList(field.NewPath("status", "used"), q.Status.Used)
	return p.list()
}

// resourceQuotaWarnings tells of a new quota that lets pods ask for more than
// they may use.
func resourceQuotaWarnings(_ context.Context, q, old *corev1.ResourceQuota) (warnings []string) {
	if old != nil {
		return nil
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage} {
		asked := "requests." + name
		request, found := q.Spec.Hard[asked]
		if bare := name == corev1.ResourceCPU || name == corev1.ResourceMemory; !found && bare {
			asked = name
			request, found = q.Spec.Hard[asked]
		}
		if limit, limited := q.Spec.Hard["limits."+name]; found && limited && request.Cmp(limit) > 0 {
			warnings = append(warnings, fmt.Sprintf("ResourceQuota %s (%s) should be less than limits.%s (%s)", asked, request.String(), name, limit.String()))
		}
	}
	return warnings
}
