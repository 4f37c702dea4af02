package admissionregistration

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

func mutatingAdmissionPolicy() *apis.Resource {
	return apis.Of[*admissionregistrationv1.MutatingAdmissionPolicy]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "mutatingadmissionpolicies", Singular: "mutatingadmissionpolicy", Kind: "MutatingAdmissionPolicy",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.MutatingAdmissionPolicy {
			return &admissionregistrationv1.MutatingAdmissionPolicy{}
		},
		NewList:    func() runtime.Object { return &admissionregistrationv1.MutatingAdmissionPolicyList{} },
		Generation: true,
		Default: func(p *admissionregistrationv1.MutatingAdmissionPolicy) {
			fill.Pointer(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
			fill.Value(&p.Spec.ReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate: validateMutatingPolicy,
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

func validateMutatingPolicy(_ context.Context, p *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	errs := validatePolicy(s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions, s.Variables)
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	errs = append(errs, checks.Enum(s.ReinvocationPolicy, path.Child("reinvocationPolicy"),
		admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)...)
	for i := range s.Mutations {
		m, at := &s.Mutations[i], path.Child("mutations").Index(i)
		errs = append(errs, checks.Enum(m.PatchType, at.Child("patchType"),
			admissionregistrationv1.PatchTypeApplyConfiguration, admissionregistrationv1.PatchTypeJSONPatch)...)
		switch {
		case m.PatchType == admissionregistrationv1.PatchTypeApplyConfiguration && (m.ApplyConfiguration == nil || m.ApplyConfiguration.Expression == ""):
			errs = append(errs, field.Required(at.Child("applyConfiguration", "expression"), "must be specified when patchType is ApplyConfiguration"))
		case m.PatchType == admissionregistrationv1.PatchTypeJSONPatch && (m.JSONPatch == nil || m.JSONPatch.Expression == ""):
			errs = append(errs, field.Required(at.Child("jsonPatch", "expression"), "must be specified when patchType is JSONPatch"))
		}
	}
	return errs
}
