package policy

import (
	"context"

	policyv1 "k8s.io/api/policy/v1"
	pathsegment "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

func podDisruptionBudget() *apis.Resource {
	return apis.Of[*policyv1.PodDisruptionBudget]{
		Names: apis.Names{
			Group: "policy", Resource: "poddisruptionbudgets", Singular: "poddisruptionbudget", Kind: "PodDisruptionBudget",
			ShortNames: []string{"pdb"},
			Namespaced: true,
		},
		Version:                "v1",
		New:                    func() *policyv1.PodDisruptionBudget { return &policyv1.PodDisruptionBudget{} },
		NewList:                func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
		HasStatus:              true,
		Generation:             true,
		RequireResourceVersion: true,
		ValidateName:           pathsegment.ValidatePathSegmentName,
		MetadataOnUpdate:       []apis.MetadataCheck{},
		MetadataOnStatusUpdate: []apis.MetadataCheck{},
		Validate:               validateNewBudget,
		ValidateUpdate:         validateBudgetUpdate,
		ValidateStatusUpdate:   validateBudgetStatus,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Min Available", "The minimum number of pods that must be available."),
			columns.String("Max Unavailable", "The maximum number of pods that may be unavailable."),
			columns.Integer("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
			columns.AgeColumn(),
		},
		Cells: func(b *policyv1.PodDisruptionBudget) []any {
			return []any{
				b.Name, limitCell(b.Spec.MinAvailable), limitCell(b.Spec.MaxUnavailable),
				int64(b.Status.DisruptionsAllowed), columns.Age(b.CreationTimestamp),
			}
		},
	}.Resource()
}

func limitCell(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

func validateNewBudget(_ context.Context, b *policyv1.PodDisruptionBudget) field.ErrorList {
	return validateBudget(b, metav1validation.LabelSelectorValidationOptions{})
}

// validateBudgetUpdate takes bad values in the selector if there were some:
// older servers took them.
func validateBudgetUpdate(_ context.Context, b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	return validateBudget(b, metav1validation.LabelSelectorValidationOptions{
		AllowInvalidLabelValueInSelector: metav1validation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector),
	})
}

func validateBudget(b *policyv1.PodDisruptionBudget, tolerated metav1validation.LabelSelectorValidationOptions) field.ErrorList {
	var errs field.ErrorList
	s, path := &b.Spec, field.NewPath("spec")
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, *s, "minAvailable and maxUnavailable cannot be both set"))
	}
	if s.MinAvailable != nil {
		errs = append(errs, checks.NumberOrPercent(*s.MinAvailable, path.Child("minAvailable"))...)
		errs = append(errs, checks.AtMost100Percent(*s.MinAvailable, path.Child("minAvailable"))...)
	}
	if s.MaxUnavailable != nil {
		errs = append(errs, checks.NumberOrPercent(*s.MaxUnavailable, path.Child("maxUnavailable"))...)
		errs = append(errs, checks.AtMost100Percent(*s.MaxUnavailable, path.Child("maxUnavailable"))...)
	}
	errs = append(errs, metav1validation.ValidateLabelSelector(s.Selector, tolerated, path.Child("selector"))...)
	if s.UnhealthyPodEvictionPolicy != nil {
		errs = append(errs, checks.Supported(*s.UnhealthyPodEvictionPolicy, path.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

func validateBudgetStatus(_ context.Context, b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	s, path := &b.Status, field.NewPath("status")
	errs := metav1validation.ValidateConditions(s.Conditions, path.Child("conditions"))
	errs = append(errs, checks.Nonnegative(s.DisruptionsAllowed, path.Child("disruptionsAllowed"))...)
	errs = append(errs, checks.Nonnegative(s.CurrentHealthy, path.Child("currentHealthy"))...)
	errs = append(errs, checks.Nonnegative(s.DesiredHealthy, path.Child("desiredHealthy"))...)
	return append(errs, checks.Nonnegative(s.ExpectedPods, path.Child("expectedPods"))...)
}
