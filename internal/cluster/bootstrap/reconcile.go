package bootstrap

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// errRecreate tells that an object can only be brought back by making it anew:
// a binding's role never changes.
var errRecreate = errors.New("must be made anew")

// autoupdateSpec is the annotation by which flow control objects opt in to, or
// out of, being brought back (KEP-1040).
const autoupdateSpec = "apf.kubernetes.io/autoupdate-spec"

func uidOf(obj client.Object) *types.UID {
	uid := obj.GetUID()
	return &uid
}

// reconcile returns the object to be written in place of existing, which is
// not changed, so that it gives what want gives; nil if it does already.
func reconcile(existing, want client.Object) (client.Object, error) {
	switch want := want.(type) {
	case *rbacv1.ClusterRole:
		return reconcileRole(
			reconciliation.ClusterRoleRuleOwner{ClusterRole: existing.(*rbacv1.ClusterRole)},
			reconciliation.ClusterRoleRuleOwner{ClusterRole: want})
	case *rbacv1.Role:
		return reconcileRole(
			reconciliation.RoleRuleOwner{Role: existing.(*rbacv1.Role)},
			reconciliation.RoleRuleOwner{Role: want})
	case *rbacv1.ClusterRoleBinding:
		return reconcileBinding(
			reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: existing.(*rbacv1.ClusterRoleBinding)},
			reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: want})
	case *rbacv1.RoleBinding:
		return reconcileBinding(
			reconciliation.RoleBindingAdapter{RoleBinding: existing.(*rbacv1.RoleBinding)},
			reconciliation.RoleBindingAdapter{RoleBinding: want})
	case *flowcontrolv1.FlowSchema:
		return updateSpec(existing.(*flowcontrolv1.FlowSchema), want,
			func(f *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchemaSpec { return &f.Spec }, optedOut[*flowcontrolv1.FlowSchema]), nil
	case *flowcontrolv1.PriorityLevelConfiguration:
		return updateSpec(existing.(*flowcontrolv1.PriorityLevelConfiguration), want,
			func(p *flowcontrolv1.PriorityLevelConfiguration) *flowcontrolv1.PriorityLevelConfigurationSpec {
				return &p.Spec
			}, optedOut[*flowcontrolv1.PriorityLevelConfiguration]), nil
	case *corev1.ConfigMap:
		return updateData(existing.(*corev1.ConfigMap), want), nil
	}
	// Namespaces, priority classes and the range of Services are made once.
	return nil, nil
}

// optedOut reports whether the object is its administrator's own: the two
// mandatory ones never are.
func optedOut[T client.Object](obj T) bool {
	if name := obj.GetName(); name == flowcontrolv1.FlowSchemaNameExempt || name == flowcontrolv1.FlowSchemaNameCatchAll {
		return false
	}
	return obj.GetAnnotations()[autoupdateSpec] != "true"
}

func reconcileRole(existing, want reconciliation.RuleOwner) (client.Object, error) {
	o := reconciliation.ReconcileRoleOptions{Role: want, Client: rolesOf{existing}}
	result, err := o.Run()
	if err != nil || result.Protected || result.Operation == reconciliation.ReconcileNone {
		return nil, err
	}
	return result.Role.GetObject().(client.Object), nil
}

func reconcileBinding(existing, want reconciliation.RoleBinding) (client.Object, error) {
	o := reconciliation.ReconcileRoleBindingOptions{RoleBinding: want, Client: bindingsOf{existing}}
	result, err := o.Run()
	switch {
	case err != nil, result.Protected, result.Operation == reconciliation.ReconcileNone:
		return nil, err
	case result.Operation == reconciliation.ReconcileRecreate:
		return nil, errRecreate
	}
	return result.RoleBinding.GetObject().(client.Object), nil
}

// rolesOf and bindingsOf let the library compare with one object; it is asked
// for dry runs only and never writes.
type rolesOf struct{ existing reconciliation.RuleOwner }

func (r rolesOf) Get(string, string) (reconciliation.RuleOwner, error) { return r.existing, nil }

func (rolesOf) Create(r reconciliation.RuleOwner) (reconciliation.RuleOwner, error) { return r, nil }

func (rolesOf) Update(r reconciliation.RuleOwner) (reconciliation.RuleOwner, error) { return r, nil }

type bindingsOf struct{ existing reconciliation.RoleBinding }

func (b bindingsOf) Get(string, string) (reconciliation.RoleBinding, error) { return b.existing, nil }

func (bindingsOf) Delete(string, string, types.UID) error { return nil }

func (bindingsOf) Create(b reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	return b, nil
}

func (bindingsOf) Update(b reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	return b, nil
}
