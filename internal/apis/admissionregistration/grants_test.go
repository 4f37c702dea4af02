package admissionregistration_test

import (
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// TestParameters lets nobody use parameters in policies that he may not read.
func TestParameters(t *testing.T) {
	tc := testcluster.Start(t)
	write := rbacv1.PolicyRule{APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"*"}, Verbs: []string{"create", "update"}}
	grant := func(name string, rules ...rbacv1.PolicyRule) {
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: append(rules, write)}
		binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}}}
		for _, o := range []client.Object{role, binding} {
			if err := tc.Client.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	user := func(name string) *identity.User {
		return &identity.User{Name: name, Groups: []string{identity.GroupAuthenticated}}
	}
	as := func(name string) client.Client { return tc.Set(user(name)).Client }
	grant("ann")
	tc.Granted(t, user("ann"), authorizationv1.ResourceAttributes{Verb: "update", Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicies"})
	grant("bob", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get"}})
	tc.Granted(t, user("bob"), authorizationv1.ResourceAttributes{Verb: "get", Resource: "configmaps", Version: "v1"})
	refused := func(err error, at, text string) {
		t.Helper()
		if !apierrors.IsInvalid(err) {
			t.Errorf("got %v, want a refusal at %s", err, at)
			return
		}
		if causes := err.(apierrors.APIStatus).Status().Details.Causes; len(causes) != 1 || causes[0].Field != at || !strings.Contains(causes[0].Message, text) {
			t.Errorf("got causes %v, want %s: %s", causes, at, text)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}

	match := &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
		Operations: []admissionregistrationv1.OperationType{"CREATE"},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
	}}}}
	policy := func(name string) *admissionregistrationv1.ValidatingAdmissionPolicy {
		return &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			ParamKind: &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}, MatchConstraints: match,
			Validations: []admissionregistrationv1.Validation{{Expression: "true"}},
		}}
	}
	const noKind = `user &{ann  [system:authenticated] map[]} must have "get" permission on all objects of the referenced paramKind (kind=ConfigMap, apiVersion=v1)`
	refused(as("ann").Create(t.Context(), policy("p")), "spec.paramKind", noKind)
	stored := policy("p")
	must(as("bob").Create(t.Context(), stored))
	// What stays as it was is not asked about again.
	stored.Spec.Validations[0].Message = "no"
	must(as("ann").Update(t.Context(), stored))
	stored.Spec.ParamKind.Kind = "Secret"
	refused(as("ann").Update(t.Context(), stored.DeepCopy()), "spec.paramKind", "(kind=Secret, apiVersion=v1)")
	mutating := &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
		ParamKind: policy("").Spec.ParamKind, MatchConstraints: match, ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
		Mutations: []admissionregistrationv1.Mutation{{PatchType: "JSONPatch", JSONPatch: &admissionregistrationv1.JSONPatch{Expression: `[JSONPatch{op: "remove", path: "/spec/x"}]`}}},
	}}
	refused(as("ann").Create(t.Context(), mutating.DeepCopy()), "spec.paramKind", noKind)
	must(as("bob").Create(t.Context(), mutating))

	named := &admissionregistrationv1.ParamRef{Name: "limits", Namespace: "default", ParameterNotFoundAction: ptr.To(admissionregistrationv1.DenyAction)}
	selected := &admissionregistrationv1.ParamRef{Selector: &metav1.LabelSelector{}, ParameterNotFoundAction: ptr.To(admissionregistrationv1.DenyAction)}
	binding := func(name, policy string, ref *admissionregistrationv1.ParamRef) *admissionregistrationv1.ValidatingAdmissionPolicyBinding {
		return &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: policy, ParamRef: ref, ValidationActions: []admissionregistrationv1.ValidationAction{"Deny"},
		}}
	}
	refused(as("ann").Create(t.Context(), binding("b", "p", named)), "spec.paramRef", `user &{ann  [system:authenticated] map[]} does not have "get" permission on the object referenced by paramRef`)
	bound := binding("b", "p", named)
	must(as("bob").Create(t.Context(), bound))
	bound.Labels = map[string]string{"a": "b"}
	must(as("ann").Update(t.Context(), bound))
	refused(as("bob").Create(t.Context(), binding("c", "p", selected)), "spec.paramRef", `does not have "list" permission on the object referenced by paramRef`)
	refused(as("bob").Create(t.Context(), binding("c", "none", named)), "spec.paramRef",
		`unable to get policy none to determine minimum required permissions and user &{bob  [system:authenticated] map[]} does not have "get" permission for all groups, versions and resources`)
	must(as("ann").Create(t.Context(), binding("d", "none", nil)))
	change := &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p", ParamRef: named}}
	refused(as("ann").Create(t.Context(), change.DeepCopy()), "spec.paramRef", `does not have "get" permission on the object referenced by paramRef`)
	must(as("bob").Create(t.Context(), change))
}
