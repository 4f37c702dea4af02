package admissionregistration

import (
	"context"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	admissionregistrationv1beta1 "k8s.io/api/admissionregistration/v1beta1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
	"skiff/internal/apiserver/cel"
)

func mutatingAdmissionPolicy(admission *cel.Admission, g Grants) *apis.Resource {
	return apis.Of[*admissionregistrationv1.MutatingAdmissionPolicy]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "mutatingadmissionpolicies", Singular: "mutatingadmissionpolicy", Kind: "MutatingAdmissionPolicy",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.MutatingAdmissionPolicy {
			return &admissionregistrationv1.MutatingAdmissionPolicy{}
		},
		NewList: func() runtime.Object { return &admissionregistrationv1.MutatingAdmissionPolicyList{} },
		Other: []apis.Version{
			apis.Twin[admissionregistrationv1.MutatingAdmissionPolicy, admissionregistrationv1beta1.MutatingAdmissionPolicy](admissionregistrationv1beta1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicy"), func() runtime.Object { return &admissionregistrationv1beta1.MutatingAdmissionPolicyList{} }),
		},
		Generation:             true,
		RequireResourceVersion: true,
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsNew},
		Default: func(p *admissionregistrationv1.MutatingAdmissionPolicy) {
			fill.Pointer(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate: func(ctx context.Context, p *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
			return g.policy(ctx, p.Spec.ParamKind, nil, validateMutatingPolicy(p, expressions{admission: admission}, false))
		},
		ValidateUpdate: func(ctx context.Context, p, old *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
			same := equality.Semantic.DeepEqual(p.Spec.ParamKind, old.Spec.ParamKind) && equality.Semantic.DeepEqual(p.Spec.MatchConditions, old.Spec.MatchConditions)
			return g.policy(ctx, p.Spec.ParamKind, old.Spec.ParamKind, validateMutatingPolicy(p, expressions{admission, mutatingExpressions(old)}, same))
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.Integer("Mutations", "Mutations indicates the number of mutations rules defined in this configuration"),
			columns.String("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
			columns.AgeColumn(),
		},
		Cells: func(p *admissionregistrationv1.MutatingAdmissionPolicy) []any {
			return []any{p.Name, int64(len(p.Spec.Mutations)), paramKindCell(p.Spec.ParamKind), columns.Age(p.CreationTimestamp)}
		},
	}.Resource()
}

// validateMutatingPolicy checks a policy. Match conditions that stayed the same
// are not checked again.
func validateMutatingPolicy(p *admissionregistrationv1.MutatingAdmissionPolicy, e expressions, sameConditions bool) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	params := s.ParamKind != nil
	scope := e.admission.Scope(params)
	errs := validatePolicy(s.FailurePolicy, s.ParamKind, s.MatchConstraints)
	errs = append(errs, validateMutableOperations(s.MatchConstraints, path.Child("matchConstraints"))...)
	if !sameConditions {
		errs = append(errs, e.conditions(s.MatchConditions, params, path.Child("matchConditions"))...)
	}
	errs = append(errs, e.variables(s.Variables, scope, path.Child("variables"))...)
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range s.Mutations {
		errs = append(errs, e.mutation(&s.Mutations[i], scope, path.Child("mutations").Index(i))...)
	}
	return append(errs, checks.Enum(s.ReinvocationPolicy, path.Child("reinvocationPolicy"),
		admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)...)
}

func (e expressions) mutation(m *admissionregistrationv1.Mutation, scope *cel.Scope, path *field.Path) field.ErrorList {
	apply, patch := path.Child("applyConfiguration"), path.Child("jsonPatch")
	d := cel.Declares{Authorizer: true, Patch: true}
	var errs field.ErrorList
	switch m.PatchType {
	case admissionregistrationv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(patch, "must be specified when patchType is JSONPatch"))
		} else {
			errs = append(errs, e.check(strings.TrimSpace(m.JSONPatch.Expression), "", patch.Child("expression"), within(scope, d, patchType))...)
		}
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
	case admissionregistrationv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		} else {
			errs = append(errs, e.check(strings.TrimSpace(m.ApplyConfiguration.Expression), "", apply.Child("expression"), within(scope, d, applyType))...)
		}
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(patch, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
	default:
		errs = append(errs, checks.Enum(m.PatchType, path.Child("patchType"),
			admissionregistrationv1.PatchTypeApplyConfiguration, admissionregistrationv1.PatchTypeJSONPatch)...)
	}
	return errs
}

// validateMutableOperations refuses operations that have no object to change.
func validateMutableOperations(m *admissionregistrationv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	for i := range m.ResourceRules {
		for _, operation := range m.ResourceRules[i].Operations {
			errs = append(errs, checks.Supported(operation, path.Child("resourceRules", "operations"), admissionregistrationv1.OperationAll,
				admissionregistrationv1.Connect, admissionregistrationv1.Create, admissionregistrationv1.Update)...)
		}
	}
	return errs
}

// mutatingExpressions lists the expressions of a policy.
func mutatingExpressions(p *admissionregistrationv1.MutatingAdmissionPolicy) []string {
	all := conditionsOf(p.Spec.MatchConditions)
	for _, v := range p.Spec.Variables {
		all = append(all, v.Expression)
	}
	for _, m := range p.Spec.Mutations {
		if m.JSONPatch != nil {
			all = append(all, strings.TrimSpace(m.JSONPatch.Expression))
		}
		if m.ApplyConfiguration != nil {
			all = append(all, strings.TrimSpace(m.ApplyConfiguration.Expression))
		}
	}
	return all
}
