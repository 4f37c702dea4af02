// Package clusterrole fills ClusterRoles that have an aggregationRule with the
// rules of the roles it selects.
package clusterrole

import (
	"cmp"
	"context"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

type reconciler struct{ controller.Deps }

// New makes the ClusterRole aggregation controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{d}
	return controller.New(d, "clusterrole", 1, r.reconcile,
		controller.Watch(d, &rbacv1.ClusterRole{}, func(q controller.Queue, _, _ *rbacv1.ClusterRole) {
			// Any role may be part of any aggregate; there are few of those.
			var all rbacv1.ClusterRoleList
			if err := d.Cache.List(context.Background(), &all, crclient.UnsafeDisableDeepCopy); err != nil {
				d.Log.Error("listing cluster roles", "error", err)
			}
			for i := range all.Items {
				if all.Items[i].AggregationRule != nil {
					controller.Add(q, "", all.Items[i].Name)
				}
			}
		}))
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var role rbacv1.ClusterRole
	if err := r.Cache.Get(ctx, key, &role, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if role.AggregationRule == nil {
		return reconcile.Result{}, nil
	}
	var all rbacv1.ClusterRoleList
	if err := r.Cache.List(ctx, &all, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	rules, err := aggregate(&role, all.Items)
	if err != nil {
		return reconcile.Result{}, reconcile.TerminalError(err)
	}
	if apiequality.Semantic.DeepEqual(rules, role.Rules) {
		return reconcile.Result{}, nil
	}
	next := role.DeepCopy()
	next.Rules = rules
	return reconcile.Result{}, crclient.IgnoreNotFound(r.Client.Update(ctx, next))
}

// aggregate collects the rules of the roles that role selects, in the order of
// the selectors and then of names, each rule once.
func aggregate(role *rbacv1.ClusterRole, all []rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	var rules []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for k := range sorted {
			if sorted[k].Name == role.Name || !selector.Matches(labels.Set(sorted[k].Labels)) {
				continue
			}
			for _, rule := range sorted[k].Rules {
				if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return apiequality.Semantic.DeepEqual(have, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
