// Package policystatus checks the types in the expressions of
// ValidatingAdmissionPolicies, and says in their status which do not fit what
// they are meant for (KEP-3488). It changes nothing in what policies do.
package policystatus

import (
	"context"
	"errors"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

type reconciler struct {
	controller.Deps
	schemas func() (resolver.SchemaResolver, error)
}

// New makes the policy status controller. schemas returns what knows the
// schemas of kinds; it is called when there is a policy.
func New(d controller.Deps, schemas func() (resolver.SchemaResolver, error)) (controller.Runnable, error) {
	r := &reconciler{d, schemas}
	return controller.New(d, "policystatus", 1, r.reconcile, controller.WatchSelf(d, &admissionregistrationv1.ValidatingAdmissionPolicy{}))
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached admissionregistrationv1.ValidatingAdmissionPolicy
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if cached.DeletionTimestamp != nil || cached.Status.ObservedGeneration >= cached.Generation {
		return reconcile.Result{}, nil
	}
	warnings, err := r.check(&cached.Spec)
	if err != nil {
		return reconcile.Result{}, err
	}
	policy := cached.DeepCopy()
	policy.Status.ObservedGeneration = policy.Generation
	policy.Status.TypeChecking = &admissionregistrationv1.TypeChecking{ExpressionWarnings: warnings}
	if apiequality.Semantic.DeepEqual(cached.Status, policy.Status) {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, crclient.IgnoreNotFound(r.Client.Status().Update(ctx, policy))
}

// check returns a warning for each expression that does not fit all kinds that
// the policy names.
func (r *reconciler) check(spec *admissionregistrationv1.ValidatingAdmissionPolicySpec) ([]admissionregistrationv1.ExpressionWarning, error) {
	kinds := r.kinds(spec.MatchConstraints)
	if len(kinds) == 0 {
		return nil, nil
	}
	schemas, err := r.schemas()
	if err != nil {
		return nil, err
	}
	c := &checker{}
	if spec.ParamKind != nil {
		c.hasParams = true
		kind := schema.FromAPIVersionAndKind(spec.ParamKind.APIVersion, spec.ParamKind.Kind)
		if c.params, err = declare(schemas, kind); err != nil && !errors.Is(err, resolver.ErrSchemaNotFound) {
			return nil, err
		}
	}
	for _, kind := range kinds {
		object, err := declare(schemas, kind)
		if errors.Is(err, resolver.ErrSchemaNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := c.add(kind, object); err != nil {
			return nil, err
		}
	}
	var warnings []admissionregistrationv1.ExpressionWarning
	look := func(path *field.Path, expression string) {
		if expression == "" {
			return
		}
		if text := c.warning(expression); text != "" {
			warnings = append(warnings, admissionregistrationv1.ExpressionWarning{FieldRef: path.String(), Warning: text})
		}
	}
	for i, v := range spec.Validations {
		path := field.NewPath("spec", "validations").Index(i)
		look(path.Child("expression"), v.Expression)
		look(path.Child("messageExpression"), v.MessageExpression)
	}
	return warnings, nil
}
