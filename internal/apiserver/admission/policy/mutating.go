package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	celgo "github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/current"
	"skiff/internal/apiserver/admission/match"
	"skiff/internal/apiserver/admission/patch"
	"skiff/internal/apiserver/admission/review"
	"skiff/internal/apiserver/cel"
)

// Mutating implements admission.Mutator.
type Mutating struct {
	deps     *Deps
	policies *current.Value[*registry[*mutator]]
}

// mutator is a compiled MutatingAdmissionPolicy.
type mutator struct {
	scope      *cel.Scope
	conditions match.Conditions
	mutations  []mutation
	// again policies are carried out once more after later changes.
	again bool
}

type mutation struct {
	kind admissionregistrationv1.PatchType
	program
}

// NewMutating returns the plug-in.
func NewMutating(d Deps) *Mutating {
	read := func(obj apis.Object) *definition[*mutator] {
		p := obj.(*admissionregistrationv1.MutatingAdmissionPolicy)
		out := &definition[*mutator]{
			ignore: ignores(p.Spec.FailurePolicy), paramKind: p.Spec.ParamKind,
			compiled: func() *mutator { return compileMutator(d.Expressions, &p.Spec) },
		}
		out.constrain(p.Spec.MatchConstraints)
		return out
	}
	bound := func(obj apis.Object) (string, binding) {
		b := obj.(*admissionregistrationv1.MutatingAdmissionPolicyBinding)
		return b.Spec.PolicyName, newBinding(b.Name, b.Spec.MatchResources, b.Spec.ParamRef)
	}
	return &Mutating{&d, follow(&d, read, bound)}
}

func compileMutator(a *cel.Admission, p *admissionregistrationv1.MutatingAdmissionPolicySpec) *mutator {
	s := newScope(a, p.ParamKind, p.Variables)
	m := &mutator{scope: s, conditions: conditionsIn(s, p.MatchConditions), again: p.ReinvocationPolicy == admissionregistrationv1.IfNeededReinvocationPolicy}
	d := cel.Declares{Authorizer: true, Patch: true}
	for _, spec := range p.Mutations {
		one := mutation{kind: spec.PatchType}
		switch {
		case spec.JSONPatch != nil:
			one.program = compiled(s.Compile(spec.JSONPatch.Expression, d, true, celgo.ListType(celgo.ObjectType("JSONPatch"))))
		case spec.ApplyConfiguration != nil:
			one.program = compiled(s.Compile(spec.ApplyConfiguration.Expression, d, true, celgo.ObjectType("Object")))
		}
		m.mutations = append(m.mutations, one)
	}
	return m
}

// invocation is a policy with one of its bindings and one parameter of it.
type invocation struct {
	policy  *definition[*mutator]
	binding *binding
	target  match.Target
	param   param
}

func (i *invocation) id() string {
	return strings.Join([]string{i.policy.name, i.binding.name, i.param.namespace, i.param.name}, "/")
}

// faults are the errors of policies that are not ignored.
type faults struct {
	causes  []string
	invalid bool
}

func (f *faults) add(p *definition[*mutator], b *binding, err error, invalid bool) {
	if p.ignore {
		return
	}
	text := fmt.Sprintf("policy %q denied request: %v", p.name, err)
	if b != nil {
		text = fmt.Sprintf("policy '%s' with binding '%s' denied request: %v", p.name, b.name, err)
	}
	if len(f.causes) == 0 {
		f.invalid = invalid
	}
	f.causes = append(f.causes, text)
}

// Mutate implements admission.Mutator.
func (p *Mutating) Mutate(ctx context.Context, a *admission.Attributes) error {
	found := p.policies.Get().index.Find(a)
	if len(found) == 0 || exempt(a) {
		return nil
	}
	var f faults
	todo := p.invocations(ctx, a, found, &f)
	if len(todo) > 0 {
		if err := p.carryOut(ctx, a, todo, &f); err != nil {
			return err
		}
	}
	if len(f.causes) == 0 {
		return nil
	}
	var err *apierrors.StatusError
	errors.As(a.Forbidden("admission request denied by policy"), &err)
	err.ErrStatus.Message = f.causes[0]
	if f.invalid {
		err.ErrStatus.Reason = metav1.StatusReasonInvalid
	}
	for _, text := range f.causes {
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Message: text})
	}
	return err
}

// invocations lists what is to be carried out for a write.
func (p *Mutating) invocations(ctx context.Context, a *admission.Attributes, found []match.Match[*definition[*mutator]], f *faults) []invocation {
	var todo []invocation
	for _, m := range found {
		matches, err := m.Value.selectors.Match(ctx, a, p.deps.Namespaces)
		if err == nil && !matches {
			continue
		}
		if err == nil {
			err = p.deps.known(m.Value.paramKind)
		}
		if err != nil {
			f.add(m.Value, nil, configurationError(nil, err), false)
			continue
		}
		for i := range m.Value.bindings {
			b := &m.Value.bindings[i]
			matches, err := b.matches(ctx, a, p.deps.Namespaces)
			if err == nil && !matches {
				continue
			}
			var params []param
			if err == nil {
				params, err = p.deps.params(ctx, m.Value.paramKind, b.params, a)
			}
			if err != nil {
				f.add(m.Value, b, configurationError(b, err), false)
				continue
			}
			for _, param := range params {
				todo = append(todo, invocation{m.Value, b, m.Target, param})
			}
		}
	}
	return todo
}

func (p *Mutating) carryOut(ctx context.Context, a *admission.Attributes, todo []invocation, f *faults) error {
	namespace, err := p.deps.namespaceObject(ctx, a)
	if err != nil {
		return err
	}
	rounds := a.Rounds(p)
	views := review.New(a, p.deps.Authorizer)
	for i := range todo {
		one := &todo[i]
		compiled := one.policy.compiled()
		view := views.In(one.target)
		if len(compiled.conditions) > 0 {
			vars, err := view.Activation(ctx)
			if err != nil {
				return apierrors.NewInternalError(err)
			}
			vars.Params = one.param.value
			start := time.Now()
			matches, err := compiled.conditions.Match(ctx, compiled.scope.Activate(ctx, vars))
			p.deps.Metrics.Conditions(one.policy.name, "policy", "validate", a, start, matches, err)
			if err != nil {
				f.add(one.policy, one.binding, err, true)
			}
			if !matches || err != nil {
				continue
			}
		}
		if rounds.Skips(one.id()) {
			continue
		}
		changed := false
		for j := range compiled.mutations {
			if a.Object == nil {
				break
			}
			start := time.Now()
			yes, err := p.mutate(ctx, a, view, one, &compiled.mutations[j], namespace)
			p.deps.Metrics.Mutated(one.policy.name, one.binding.name, time.Since(start), failureOf(err))
			var status *apierrors.StatusError
			switch {
			case errors.As(err, &status):
				return status
			case err != nil:
				f.add(one.policy, one.binding, err, true)
			case yes:
				changed = true
				views.Changed()
			}
		}
		if changed {
			rounds.Changed()
		}
		if compiled.again {
			rounds.Asked(one.id())
		}
	}
	rounds.Done()
	return nil
}

// mutate makes one mutation. Errors that are API errors end the request.
func (p *Mutating) mutate(ctx context.Context, a *admission.Attributes, view *review.View, one *invocation, m *mutation, namespace map[string]any) (changed bool, err error) {
	if m.err != nil {
		return false, m.err
	}
	vars, err := view.Activation(ctx)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	vars.Params, vars.Namespace = one.param.value, namespace
	result, err := m.Eval(ctx, one.policy.compiled().scope.Activate(ctx, vars), cel.NewBudget(celconfig.RuntimeCELCostBudget))
	if err != nil {
		return false, err
	}
	var document []byte
	if m.kind == admissionregistrationv1.PatchTypeJSONPatch {
		if document, err = view.Object(ctx); err == nil {
			document, err = applyOperations(document, result)
		}
	} else {
		types, terr := p.deps.Server.TypeConverter(one.target.Kind)
		if terr != nil {
			return false, apierrors.NewServiceUnavailable(fmt.Sprintf("Resource kind %s not found. There can be a delay between when CustomResourceDefinitions are created and when they are available.", one.target.Kind))
		}
		var merged map[string]any
		if merged, err = applyConfiguration(types, vars.Object, result); err == nil {
			document, err = json.Marshal(merged)
		}
	}
	if err != nil || document == nil {
		return false, err
	}
	changed, err = patch.Replace(ctx, a, view.Version(), document, m.kind == admissionregistrationv1.PatchTypeJSONPatch)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	return changed, nil
}
