package admissionregistration

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	admissionregistrationv1beta1 "k8s.io/api/admissionregistration/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

func mutatingAdmissionPolicyBinding(g Grants) *apis.Resource {
	return apis.Of[*admissionregistrationv1.MutatingAdmissionPolicyBinding]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "mutatingadmissionpolicybindings", Singular: "mutatingadmissionpolicybinding", Kind: "MutatingAdmissionPolicyBinding",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.MutatingAdmissionPolicyBinding {
			return &admissionregistrationv1.MutatingAdmissionPolicyBinding{}
		},
		NewList: func() runtime.Object { return &admissionregistrationv1.MutatingAdmissionPolicyBindingList{} },
		Other: []apis.Version{
			apis.Twin[admissionregistrationv1.MutatingAdmissionPolicyBinding, admissionregistrationv1beta1.MutatingAdmissionPolicyBinding](admissionregistrationv1beta1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicyBinding"), func() runtime.Object { return &admissionregistrationv1beta1.MutatingAdmissionPolicyBindingList{} }),
		},
		Generation:             true,
		RequireResourceVersion: true,
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsNew},
		Default:                func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
		Validate: func(ctx context.Context, b *admissionregistrationv1.MutatingAdmissionPolicyBinding) field.ErrorList {
			change := bindingChange{policy: b.Spec.PolicyName, ref: b.Spec.ParamRef}
			return g.binding(ctx, change, g.MutatingParams, validateMutatingAdmissionPolicyBinding(&b.Spec))
		},
		ValidateUpdate: func(ctx context.Context, b, old *admissionregistrationv1.MutatingAdmissionPolicyBinding) field.ErrorList {
			change := bindingChange{policy: b.Spec.PolicyName, oldPolicy: old.Spec.PolicyName, ref: b.Spec.ParamRef, oldRef: old.Spec.ParamRef}
			return g.binding(ctx, change, g.MutatingParams, validateMutatingAdmissionPolicyBinding(&b.Spec))
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
			columns.String("ParamRef", "ParamRef indicates the param resource which sets the configration param"),
			columns.AgeColumn(),
		},
		Cells: func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRefCell(b.Spec.ParamRef), columns.Age(b.CreationTimestamp)}
		},
	}.Resource()
}

func validateMutatingAdmissionPolicyBinding(s *admissionregistrationv1.MutatingAdmissionPolicyBindingSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := checks.RequiredName(s.PolicyName, path.Child("policyName"), utilvalidation.IsDNS1123Subdomain)
	errs = append(errs, validateParamRef(s.ParamRef, path.Child("paramRef"))...)
	if s.MatchResources != nil {
		errs = append(errs, validateMatch(s.MatchResources, path.Child("matchResources"))...)
		errs = append(errs, validateMutableOperations(s.MatchResources, path.Child("matchResources"))...)
	}
	return errs
}
