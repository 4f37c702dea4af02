// Package escalation lets nobody give rights away that he does not have
// himself: neither by writing a role nor by binding one ("Privilege escalation
// prevention and bootstrapping" in upstream's documentation of RBAC).
package escalation

import (
	"context"
	"errors"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/authz/rbac"
	"skiff/internal/identity"
)

// Plugin implements admission.Validator.
type Plugin struct {
	// Rules knows who has which rules.
	Rules *rbac.Authorizer
	// Authorizer decides about the verbs bind and escalate.
	Authorizer authz.Authorizer
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Create && a.Operation != admission.Update || a.Resource.Group != rbacv1.GroupName ||
		a.User.InGroup(identity.GroupMasters) || onlyGarbageCollection(a) {
		return nil
	}
	var err error
	switch obj := a.Object.(type) {
	case *rbacv1.Role:
		err = p.checkRole(ctx, a, obj.Rules)
	case *rbacv1.ClusterRole:
		if err = p.checkRole(ctx, a, obj.Rules); err == nil {
			err = p.checkAggregation(ctx, a, obj)
		}
	case *rbacv1.RoleBinding:
		return p.checkBinding(ctx, a, obj.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return p.checkBinding(ctx, a, obj.RoleRef)
	}
	if err != nil {
		return a.Forbidden("%w", err)
	}
	return nil
}

// may asks whether the user may do what verb says with the role.
func (p *Plugin) may(ctx context.Context, a *admission.Attributes, verb, resource, name string) bool {
	decision, _, _ := p.Authorizer.Authorize(ctx, &authz.Attributes{
		User: a.User, Verb: verb, Group: rbacv1.GroupName, Version: "*", Resource: resource, Namespace: a.Namespace, Name: name,
	})
	return decision == authz.Allow
}

func (p *Plugin) checkRole(ctx context.Context, a *admission.Attributes, rules []rbacv1.PolicyRule) error {
	if p.may(ctx, a, "escalate", a.Resource.Resource, a.Name) {
		return nil
	}
	return p.Rules.ConfirmNoEscalation(a.User, a.Namespace, rules)
}

// checkAggregation asks for all rights: an aggregated role may come to hold any.
func (p *Plugin) checkAggregation(ctx context.Context, a *admission.Attributes, role *rbacv1.ClusterRole) error {
	old, _ := a.Old.(*rbacv1.ClusterRole)
	if !aggregates(role) && !aggregates(old) || p.may(ctx, a, "escalate", a.Resource.Resource, a.Name) {
		return nil
	}
	all := []rbacv1.PolicyRule{
		{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
		{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
	}
	if p.Rules.ConfirmNoEscalation(a.User, a.Namespace, all) != nil {
		return errors.New("must have cluster-admin privileges to use the aggregationRule")
	}
	return nil
}

func aggregates(role *rbacv1.ClusterRole) bool {
	return role != nil && role.AggregationRule != nil && len(role.AggregationRule.ClusterRoleSelectors) > 0
}

// checkBinding passes on the error of a role that does not exist, as it is.
func (p *Plugin) checkBinding(ctx context.Context, a *admission.Attributes, ref rbacv1.RoleRef) error {
	if p.may(ctx, a, "bind", strings.ToLower(ref.Kind)+"s", ref.Name) {
		return nil
	}
	rules, err := p.Rules.RoleRules(ref, a.Namespace)
	if err != nil {
		return err
	}
	if err := p.Rules.ConfirmNoEscalation(a.User, a.Namespace, rules); err != nil {
		return a.Forbidden("%w", err)
	}
	return nil
}

// onlyGarbageCollection reports whether an update changes nothing but what
// the garbage collector must be able to change.
func onlyGarbageCollection(a *admission.Attributes) bool {
	if a.Operation != admission.Update {
		return false
	}
	bare := func(obj runtime.Object) runtime.Object {
		c := obj.DeepCopyObject()
		m := c.(metav1.Object)
		m.SetOwnerReferences(nil)
		m.SetFinalizers(nil)
		m.SetManagedFields(nil)
		return c
	}
	return equality.Semantic.DeepEqual(bare(a.Object), bare(a.Old))
}
