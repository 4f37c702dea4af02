package admissionregistration

import (
	"context"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

func validatingAdmissionPolicyBinding(g Grants) *apis.Resource {
	return apis.Of[*admissionregistrationv1.ValidatingAdmissionPolicyBinding]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicybindings", Singular: "validatingadmissionpolicybinding", Kind: "ValidatingAdmissionPolicyBinding",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.ValidatingAdmissionPolicyBinding {
			return &admissionregistrationv1.ValidatingAdmissionPolicyBinding{}
		},
		NewList:                func() runtime.Object { return &admissionregistrationv1.ValidatingAdmissionPolicyBindingList{} },
		Generation:             true,
		RequireResourceVersion: true,
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsNew},
		Default:                func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
		Validate: func(ctx context.Context, b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
			change := bindingChange{policy: b.Spec.PolicyName, ref: b.Spec.ParamRef}
			return g.binding(ctx, change, g.ValidatingParams, validateValidatingAdmissionPolicyBinding(&b.Spec))
		},
		ValidateUpdate: func(ctx context.Context, b, old *admissionregistrationv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
			change := bindingChange{policy: b.Spec.PolicyName, oldPolicy: old.Spec.PolicyName, ref: b.Spec.ParamRef, oldRef: old.Spec.ParamRef}
			return g.binding(ctx, change, g.ValidatingParams, validateValidatingAdmissionPolicyBinding(&b.Spec))
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
			columns.String("ParamRef", "ParamRef indicates the param resource which sets the configration param"),
			columns.AgeColumn(),
		},
		Cells: func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRefCell(b.Spec.ParamRef), columns.Age(b.CreationTimestamp)}
		},
	}.Resource()
}

func validateValidatingAdmissionPolicyBinding(s *admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := checks.RequiredName(s.PolicyName, path.Child("policyName"), utilvalidation.IsDNS1123Subdomain)
	errs = append(errs, validateParamRef(s.ParamRef, path.Child("paramRef"))...)
	if s.MatchResources != nil {
		errs = append(errs, validateMatch(s.MatchResources, path.Child("matchResources"))...)
	}
	actions := path.Child("validationActions")
	if len(s.ValidationActions) == 0 {
		errs = append(errs, field.Required(actions, "at least one validation action is required"))
	}
	for i, action := range s.ValidationActions {
		errs = append(errs, checks.Supported(action, actions.Index(i), admissionregistrationv1.Audit, admissionregistrationv1.Deny, admissionregistrationv1.Warn)...)
		if slices.Index(s.ValidationActions, action) < i {
			errs = append(errs, field.Duplicate(actions.Index(i), action))
		}
	}
	if slices.Contains(s.ValidationActions, admissionregistrationv1.Deny) && slices.Contains(s.ValidationActions, admissionregistrationv1.Warn) {
		errs = append(errs, field.Invalid(actions, s.ValidationActions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}
