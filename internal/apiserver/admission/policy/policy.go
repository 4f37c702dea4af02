// Package policy carries out ValidatingAdmissionPolicies and
// MutatingAdmissionPolicies: rules in CEL about writes, bound to parameters.
package policy

import (
	"context"
	"fmt"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/current"
	"skiff/internal/apiserver/admission/match"
	"skiff/internal/apiserver/admission/review"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/cel"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

// Deps are what both kinds of plug-in need.
type Deps struct {
	// Policies and Bindings are the objects that register the policies.
	Policies, Bindings *cache.Collection
	// Server holds the parameters.
	Server      *verbs.Server
	Namespaces  match.Namespaces
	Authorizer  authz.Authorizer
	Expressions *cel.Admission
	Metrics     *admission.Metrics
}

// definition is a policy. E is its compiled form, made when the first write is
// meant for the policy.
type definition[E any] struct {
	name string
	// key is the same as long as the policy is.
	key       string
	ignore    bool
	paramKind *admissionregistrationv1.ParamKind
	rules     match.Rules
	selectors match.Selectors
	bindings  []binding
	compiled  func() E
}

// binding puts a policy into effect.
type binding struct {
	name      string
	rules     match.Rules
	selectors match.Selectors
	params    *admissionregistrationv1.ParamRef
	actions   []admissionregistrationv1.ValidationAction
}

func newBinding(name string, m *admissionregistrationv1.MatchResources, params *admissionregistrationv1.ParamRef) binding {
	b := binding{name: name, rules: match.Policy(m), params: params}
	if m == nil {
		m = &admissionregistrationv1.MatchResources{}
	}
	b.selectors = match.NewSelectors(m.NamespaceSelector, m.ObjectSelector)
	return b
}

// registry finds the policies that a write is meant for.
type registry[E any] struct {
	index match.Index[*definition[E]]
	known map[string]*definition[E]
}

// follow keeps a registry of the policies that are bound. read returns a policy
// without bindings, and bound the policy's name and the binding.
func follow[E any](d *Deps, read func(apis.Object) *definition[E], bound func(apis.Object) (policy string, b binding)) *current.Value[*registry[E]] {
	return current.New(func(before *registry[E], objects [][]apis.Object) *registry[E] {
		bindings := map[string][]binding{}
		for _, obj := range objects[1] {
			name, b := bound(obj)
			bindings[name] = append(bindings[name], b)
		}
		all := &registry[E]{known: map[string]*definition[E]{}}
		for _, obj := range objects[0] {
			if len(bindings[obj.GetName()]) == 0 {
				continue
			}
			p := read(obj)
			p.name, p.bindings = obj.GetName(), bindings[obj.GetName()]
			p.key = fmt.Sprintf("%s/%s/%d", p.name, obj.GetUID(), obj.GetGeneration())
			if before != nil && before.known[p.key] != nil {
				// What is compiled stays compiled.
				p.compiled = before.known[p.key].compiled
			} else {
				p.compiled = sync.OnceValue(p.compiled)
			}
			all.known[p.key] = p
			all.index.Add(p, p.rules)
		}
		return all
	}, d.Policies, d.Bindings)
}

// constrain sets what the policy is meant for.
func (p *definition[E]) constrain(m *admissionregistrationv1.MatchResources) {
	if m == nil {
		m = &admissionregistrationv1.MatchResources{}
	}
	p.rules, p.selectors = match.Policy(m), match.NewSelectors(m.NamespaceSelector, m.ObjectSelector)
}

// matches reports whether the binding is meant for the write too.
func (b *binding) matches(ctx context.Context, a *admission.Attributes, namespaces match.Namespaces) (bool, error) {
	if ok, err := b.selectors.Match(ctx, a, namespaces); !ok || err != nil {
		return false, err
	}
	_, ok := b.rules.Find(a)
	return ok, nil
}

// exempt reports whether policies have no say in the write: their own
// configuration, which they must not lock up, and questions about rights, which
// are asked to decide about policies.
func exempt(a *admission.Attributes) bool {
	switch a.Resource.Group {
	case admissionregistrationv1.GroupName:
		return a.Resource.Resource != "validatingwebhookconfigurations" && a.Resource.Resource != "mutatingwebhookconfigurations"
	case "authentication.k8s.io", "authorization.k8s.io":
		return true
	}
	return false
}

// configurationError tells that a policy, or one of its bindings if b is not
// nil, cannot be carried out.
func configurationError(b *binding, err error) error {
	if b == nil {
		return fmt.Errorf("failed to configure policy: %w", err)
	}
	return fmt.Errorf("failed to configure binding: %w", err)
}

// known checks that the policy's parameters can be found.
func (d *Deps) known(k *admissionregistrationv1.ParamKind) error {
	if k == nil {
		return nil
	}
	if r, _ := d.Server.LookupKind(paramGVK(k)); r == nil || r.Collection == nil {
		return fmt.Errorf("failed to find resource referenced by paramKind: '%v'", paramGVK(k))
	}
	return nil
}

// namespaceObject returns the value of namespaceObject: the namespace that the
// write is in, without its owners and managed fields.
func (d *Deps) namespaceObject(ctx context.Context, a *admission.Attributes) (map[string]any, error) {
	if a.Namespace == "" || a.Is("", "namespaces", a.Subresource) {
		return nil, nil
	}
	ns, err := d.Namespaces(ctx, a.Namespace)
	if err != nil {
		return nil, err
	}
	trimmed := &corev1.Namespace{ObjectMeta: ns.ObjectMeta, Spec: ns.Spec, Status: ns.Status}
	trimmed.OwnerReferences, trimmed.ManagedFields = nil, nil
	value, err := review.Value(corev1.SchemeGroupVersion.WithKind("Namespace"), trimmed)
	if err != nil {
		return nil, err
	}
	delete(value, "apiVersion")
	delete(value, "kind")
	return value, nil
}
