package admissionregistration

import (
	"context"
	"fmt"
	"strings"

	celgo "github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/jsonpath"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
	"skiff/internal/apiserver/cel"
)

func validatingAdmissionPolicy(admission *cel.Admission, g Grants) *apis.Resource {
	return apis.Of[*admissionregistrationv1.ValidatingAdmissionPolicy]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicies", Singular: "validatingadmissionpolicy", Kind: "ValidatingAdmissionPolicy",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.ValidatingAdmissionPolicy {
			return &admissionregistrationv1.ValidatingAdmissionPolicy{}
		},
		NewList:                func() runtime.Object { return &admissionregistrationv1.ValidatingAdmissionPolicyList{} },
		HasStatus:              true,
		Generation:             true,
		RequireResourceVersion: true,
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsNew},
		MetadataOnStatusUpdate: []apis.MetadataCheck{},
		Default: func(p *admissionregistrationv1.ValidatingAdmissionPolicy) {
			fill.Pointer(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate: func(ctx context.Context, p *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
			return g.policy(ctx, p.Spec.ParamKind, nil, validateValidatingPolicy(p, expressions{admission: admission}, false))
		},
		ValidateUpdate: func(ctx context.Context, p, old *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
			same := equality.Semantic.DeepEqual(p.Spec.ParamKind, old.Spec.ParamKind) && equality.Semantic.DeepEqual(p.Spec.MatchConditions, old.Spec.MatchConditions)
			return g.policy(ctx, p.Spec.ParamKind, old.Spec.ParamKind, validateValidatingPolicy(p, expressions{admission, validatingExpressions(old)}, same))
		},
		Reset: map[string][]string{"status": {"metadata"}},
		PrepareStatusUpdate: func(_ context.Context, o, old *admissionregistrationv1.ValidatingAdmissionPolicy) {
			metav1.ResetObjectMetaForStatus(&o.ObjectMeta, &old.ObjectMeta)
		},
		ValidateStatusUpdate: func(_ context.Context, p, _ *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validatePolicyStatus(&p.Status, field.NewPath("status"))
		},
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

const (
	maxAuditAnnotations = 20
	maxValueExpression  = 5 * 1024
)

// validateValidatingPolicy checks a policy. Match conditions that stayed the
// same are not checked again.
func validateValidatingPolicy(p *admissionregistrationv1.ValidatingAdmissionPolicy, e expressions, sameConditions bool) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	params := s.ParamKind != nil
	scope := e.admission.Scope(params)
	// Without variables there is nothing of that name.
	in := func(d cel.Declares, returns ...*celgo.Type) compiler {
		d.Params = params
		if len(s.Variables) == 0 {
			return e.in(d, returns...)
		}
		return within(scope, d, returns...)
	}
	errs := validatePolicy(s.FailurePolicy, s.ParamKind, s.MatchConstraints)
	if !sameConditions {
		errs = append(errs, e.conditions(s.MatchConditions, params, path.Child("matchConditions"))...)
	}
	errs = append(errs, e.variables(s.Variables, scope, path.Child("variables"))...)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		errs = append(errs, field.Required(path.Child("validations"), "validations or auditAnnotations must contain at least one item"))
		errs = append(errs, field.Required(path.Child("auditAnnotations"), "validations or auditAnnotations must contain at least one item"))
	}
	for i := range s.Validations {
		errs = append(errs, e.validation(&s.Validations[i], in, path.Child("validations").Index(i))...)
	}
	if len(s.AuditAnnotations) > maxAuditAnnotations {
		errs = append(errs, field.Invalid(path.Child("auditAnnotations"), s.AuditAnnotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	}
	seen := map[string]bool{}
	for i, a := range s.AuditAnnotations {
		at := path.Child("auditAnnotations").Index(i)
		if p.Name == "" {
			errs = append(errs, field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
		} else {
			errs = append(errs, checks.QualifiedName(p.Name+"/"+a.Key, at.Child("key"))...)
		}
		if len(strings.TrimSpace(a.ValueExpression)) > maxValueExpression {
			errs = append(errs, field.Required(at.Child("valueExpression"), fmt.Sprintf("must not exceed %d bytes in length", maxValueExpression)))
		} else {
			errs = append(errs, e.check(a.ValueExpression, "valueExpression is not specified", at.Child("valueExpression"),
				in(cel.Declares{Authorizer: true}, celgo.StringType, celgo.NullType))...)
		}
		if seen[a.Key] {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		seen[a.Key] = true
	}
	return errs
}

func (e expressions) validation(v *admissionregistrationv1.Validation, in func(d cel.Declares, returns ...*celgo.Type) compiler, path *field.Path) field.ErrorList {
	errs := e.check(v.Expression, "expression is not specified", path.Child("expression"), in(cel.Declares{Authorizer: true}, celgo.BoolType))
	if v.MessageExpression != "" {
		if strings.TrimSpace(v.MessageExpression) == "" {
			errs = append(errs, field.Invalid(path.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
		} else {
			errs = append(errs, e.check(v.MessageExpression, "", path.Child("messageExpression"), in(cel.Declares{}, celgo.StringType))...)
		}
	}
	message := strings.TrimSpace(v.Message)
	if v.Message != "" && message == "" {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must be non-empty if specified"))
	} else if strings.ContainsAny(message, "\n\r") {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must not contain line breaks"))
	}
	if v.Reason != nil {
		errs = append(errs, checks.Supported(*v.Reason, path.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid,
			metav1.StatusReasonRequestEntityTooLarge)...)
	}
	return errs
}

// validatingExpressions lists the expressions of a policy.
func validatingExpressions(p *admissionregistrationv1.ValidatingAdmissionPolicy) []string {
	all := conditionsOf(p.Spec.MatchConditions)
	for _, v := range p.Spec.Variables {
		all = append(all, v.Expression)
	}
	for _, v := range p.Spec.Validations {
		all = append(all, v.Expression, v.MessageExpression)
	}
	for _, a := range p.Spec.AuditAnnotations {
		all = append(all, a.ValueExpression)
	}
	return all
}

// validatePolicy checks what the two kinds of policy have in common, apart
// from their expressions.
func validatePolicy(failure *admissionregistrationv1.FailurePolicyType, params *admissionregistrationv1.ParamKind, match *admissionregistrationv1.MatchResources) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if failure == nil {
		errs = append(errs, field.Required(path.Child("failurePolicy"), ""))
	} else {
		errs = append(errs, checks.Supported(*failure, path.Child("failurePolicy"), admissionregistrationv1.Fail, admissionregistrationv1.Ignore)...)
	}
	errs = append(errs, validateParamKind(params, path.Child("paramKind"))...)
	if match == nil {
		return append(errs, field.Required(path.Child("matchConstraints"), ""))
	}
	errs = append(errs, validateMatch(match, path.Child("matchConstraints"))...)
	if len(match.ResourceRules) == 0 {
		errs = append(errs, field.Required(path.Child("matchConstraints", "resourceRules"), ""))
	}
	return errs
}

func validatePolicyStatus(s *admissionregistrationv1.ValidatingAdmissionPolicyStatus, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateConditions(s.Conditions, path.Child("conditions"))
	if s.TypeChecking == nil {
		return errs
	}
	for i, w := range s.TypeChecking.ExpressionWarnings {
		at := path.Child("typeChecking", "expressionWarnings").Index(i)
		if w.Warning == "" {
			errs = append(errs, field.Required(at.Child("warning"), ""))
		}
		ref := strings.TrimSpace(w.FieldRef)
		if ref == "" {
			errs = append(errs, field.Required(at.Child("fieldRef"), ""))
		} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
			errs = append(errs, field.Invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err)))
		}
	}
	return errs
}
