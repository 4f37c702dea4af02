package admissionregistration

import (
	"context"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

func validatingAdmissionPolicy() *apis.Resource {
	return apis.Of[*admissionregistrationv1.ValidatingAdmissionPolicy]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicies", Singular: "validatingadmissionpolicy", Kind: "ValidatingAdmissionPolicy",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.ValidatingAdmissionPolicy {
			return &admissionregistrationv1.ValidatingAdmissionPolicy{}
		},
		NewList:    func() runtime.Object { return &admissionregistrationv1.ValidatingAdmissionPolicyList{} },
		HasStatus:  true,
		Generation: true,
		Default: func(p *admissionregistrationv1.ValidatingAdmissionPolicy) {
			fill.Pointer(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate: validateValidatingPolicy,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.Integer("Validations", "Validations indicates the number of validation rules defined in this configuration"),
			columns.String("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
			columns.AgeColumn(),
		},
		Cells: func(p *admissionregistrationv1.ValidatingAdmissionPolicy) []any {
			return []any{p.Name, int64(len(p.Spec.Validations)), paramKindCell(p.Spec.ParamKind), columns.Age(p.CreationTimestamp)}
		},
	}.Resource()
}

func validateValidatingPolicy(_ context.Context, p *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	errs := validatePolicy(s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions, s.Variables)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		errs = append(errs, field.Required(path.Child("validations"), "validations or auditAnnotations must contain at least one item"))
		errs = append(errs, field.Required(path.Child("auditAnnotations"), "validations or auditAnnotations must contain at least one item"))
	}
	for i := range s.Validations {
		errs = append(errs, validateValidation(&s.Validations[i], path.Child("validations").Index(i))...)
	}
	seen := map[string]bool{}
	for i, a := range s.AuditAnnotations {
		at := path.Child("auditAnnotations").Index(i)
		errs = append(errs, checks.RequiredName(a.Key, at.Child("key"), utilvalidation.IsQualifiedName)...)
		if strings.TrimSpace(a.ValueExpression) == "" {
			errs = append(errs, field.Required(at.Child("valueExpression"), "valueExpression is not specified"))
		}
		if seen[a.Key] {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		seen[a.Key] = true
	}
	return errs
}

func validateValidation(v *admissionregistrationv1.Validation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	}
	if strings.Contains(v.Message, "\n") {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "message must not contain line breaks"))
	}
	if v.Message != "" && strings.TrimSpace(v.Message) == "" {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "message must be non-empty if specified"))
	}
	if v.Reason != nil {
		errs = append(errs, checks.Enum(*v.Reason, path.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid,
			metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnauthorized)...)
	}
	return errs
}

// validatePolicy checks what the two kinds of policy have in common. The
// expressions are compiled where policies are run.
func validatePolicy(failure *admissionregistrationv1.FailurePolicyType, params *admissionregistrationv1.ParamKind, match *admissionregistrationv1.MatchResources,
	conditions []admissionregistrationv1.MatchCondition, variables []admissionregistrationv1.Variable) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if failure == nil {
		errs = append(errs, field.Required(path.Child("failurePolicy"), ""))
	} else {
		errs = append(errs, checks.Enum(*failure, path.Child("failurePolicy"), admissionregistrationv1.Fail, admissionregistrationv1.Ignore)...)
	}
	errs = append(errs, validateParamKind(params, path.Child("paramKind"))...)
	switch {
	case match == nil:
		errs = append(errs, field.Required(path.Child("matchConstraints"), ""))
	default:
		errs = append(errs, validateMatch(match, path.Child("matchConstraints"))...)
		if len(match.ResourceRules) == 0 {
			errs = append(errs, field.Required(path.Child("matchConstraints", "resourceRules"), ""))
		}
	}
	errs = append(errs, validateConditions(conditions, path.Child("matchConditions"))...)
	seen := map[string]bool{}
	for i, v := range variables {
		at := path.Child("variables").Index(i)
		if v.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
		} else if seen[v.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), v.Name))
		}
		seen[v.Name] = true
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
		}
	}
	return errs
}
