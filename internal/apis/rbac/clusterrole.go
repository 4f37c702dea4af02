package rbac

import (
	"context"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
)

func clusterRole() *apis.Resource {
	return apis.Of[*rbacv1.ClusterRole]{
		Names: apis.Names{
			Group: "rbac.authorization.k8s.io", Resource: "clusterroles", Singular: "clusterrole", Kind: "ClusterRole",
		},
		Version:             "v1",
		New:                 func() *rbacv1.ClusterRole { return &rbacv1.ClusterRole{} },
		NewList:             func() runtime.Object { return &rbacv1.ClusterRoleList{} },
		AllowCreateOnUpdate: true,
		ValidateName:        validateName,
		MetadataOnUpdate:    []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		Validate: func(_ context.Context, r *rbacv1.ClusterRole) field.ErrorList {
			return validateClusterRole(r, metav1validation.LabelSelectorValidationOptions{})
		},
		ValidateUpdate: func(_ context.Context, r, old *rbacv1.ClusterRole) field.ErrorList {
			var tolerant metav1validation.LabelSelectorValidationOptions
			if old.AggregationRule != nil {
				tolerant.AllowInvalidLabelValueInSelector = slices.ContainsFunc(old.AggregationRule.ClusterRoleSelectors, func(s metav1.LabelSelector) bool {
					return metav1validation.LabelSelectorHasInvalidLabelValue(&s)
				})
			}
			return validateClusterRole(r, tolerant)
		},
	}.Resource()
}

func validateClusterRole(r *rbacv1.ClusterRole, o metav1validation.LabelSelectorValidationOptions) field.ErrorList {
	errs := validateRules(r.Rules, false)
	if r.AggregationRule == nil {
		return errs
	}
	path := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		errs = append(errs, field.Required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		selector := &r.AggregationRule.ClusterRoleSelectors[i]
		errs = append(errs, metav1validation.ValidateLabelSelector(selector, o, path.Index(i))...)
		if _, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			// Upstream shows what came of reading it, which is nothing.
			errs = append(errs, field.Invalid(path.Index(i), nil, "invalid label selector."))
		}
	}
	return errs
}
