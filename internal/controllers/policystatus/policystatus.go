// Package policystatus checks the types in the expressions of
// ValidatingAdmissionPolicies, and says in their status which do not fit what
// they are meant for (KEP-3488). It changes nothing in what policies do.
package policystatus

import (
	"context"
	"errors"
	"slices"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"skiff/internal/client"
	"skiff/internal/controllers/controller"
)

type reconciler struct {
	controller.Deps
	schemas func() (resolver.SchemaResolver, error)

	mu sync.Mutex
	// again are policies to be checked although they have not changed.
	again map[types.NamespacedName]bool
}

// New makes the policy status controller. schemas returns what knows the
// schemas of kinds; it is called when there is a policy. server, if it is given,
// is the API server's own view of the cluster: policies are checked again when
// kinds that they name are defined, which this controller's role does not show
// it.
func New(d controller.Deps, schemas func() (resolver.SchemaResolver, error), server client.Set) (controller.Runnable, error) {
	r := &reconciler{Deps: d, schemas: schemas, again: map[types.NamespacedName]bool{}}
	sources := []source.Source{controller.WatchSelf(d, &admissionregistrationv1.ValidatingAdmissionPolicy{})}
	if server.Cache != nil {
		sources = append(sources, controller.Watch(controller.Deps{Set: server}, &apiextensionsv1.CustomResourceDefinition{}, r.defined))
	}
	return controller.New(d, "policystatus", 1, r.reconcile, sources...)
}

// defined wakes the policies that name a custom resource's group when it starts
// to be served, or is served otherwise.
func (r *reconciler) defined(q controller.Queue, old, crd *apiextensionsv1.CustomResourceDefinition) {
	if crd == nil || !established(crd) || old != nil && established(old) && old.Generation == crd.Generation {
		return
	}
	var all admissionregistrationv1.ValidatingAdmissionPolicyList
	if err := r.Cache.List(context.Background(), &all, crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing policies for a definition", "definition", crd.Name, "error", err)
	}
	for i := range all.Items {
		if p := &all.Items[i]; names(p, crd.Spec.Group) {
			r.mu.Lock()
			r.again[controller.Key(p)] = true
			r.mu.Unlock()
			controller.Add(q, "", p.Name)
		}
	}
}

func established(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	})
}

// names reports whether the policy is about kinds of the group, or has
// parameters of one.
func names(p *admissionregistrationv1.ValidatingAdmissionPolicy, group string) bool {
	if k := p.Spec.ParamKind; k != nil && schema.FromAPIVersionAndKind(k.APIVersion, k.Kind).Group == group {
		return true
	}
	return p.Spec.MatchConstraints != nil && slices.ContainsFunc(p.Spec.MatchConstraints.ResourceRules, func(r admissionregistrationv1.NamedRuleWithOperations) bool {
		return slices.Contains(r.APIGroups, group)
	})
}

// asked reports, once, whether the policy is to be checked again.
func (r *reconciler) asked(key types.NamespacedName) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.again[key]
	delete(r.again, key)
	return asked
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached admissionregistrationv1.ValidatingAdmissionPolicy
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if again := r.asked(key); cached.DeletionTimestamp != nil || cached.Status.ObservedGeneration >= cached.Generation && !again {
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
