package admissionregistration

import (
	"context"
	"errors"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// Grants say who may read what policies take their parameters from: a policy
// tells its authors what is in there. Without an authorizer everybody may.
type Grants struct {
	Authorizer authz.Authorizer
	// Resource returns the plural of a kind that the server serves.
	Resource func(kind schema.GroupVersionKind) (plural string, ok bool)
	// ValidatingParams and MutatingParams return the kind of parameters of a
	// stored policy, nil if it has none.
	ValidatingParams, MutatingParams func(ctx context.Context, policy string) (*admissionregistrationv1.ParamKind, error)
}

// policy refuses a policy whose author may not read all possible parameters,
// once nothing else is wrong with it. old is what the policy has already.
func (g Grants) policy(ctx context.Context, kind, old *admissionregistrationv1.ParamKind, errs field.ErrorList) field.ErrorList {
	if len(errs) > 0 || g.Authorizer == nil || kind == nil || old != nil && *old == *kind {
		return errs
	}
	ask := g.about(kind)
	ask.Verb, ask.Namespace, ask.Name = "get", "*", "*"
	err := g.ask(ctx, ask, func(user string) error {
		return fmt.Errorf(`user %s must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`, user, kind.Kind, kind.APIVersion)
	})
	if err != nil {
		return field.ErrorList{field.Forbidden(field.NewPath("spec", "paramKind"), err.Error())}
	}
	return nil
}

// bindingChange is what the two kinds of binding have in common, before and
// after a write.
type bindingChange struct {
	policy, oldPolicy string
	ref, oldRef       *admissionregistrationv1.ParamRef
}

// binding refuses a binding whose author may not read the parameters that it
// refers to, once nothing else is wrong with it.
func (g Grants) binding(ctx context.Context, c bindingChange, paramsOf func(context.Context, string) (*admissionregistrationv1.ParamKind, error), errs field.ErrorList) field.ErrorList {
	if len(errs) > 0 || g.Authorizer == nil || c.ref == nil || c.policy == c.oldPolicy && equality.Semantic.DeepEqual(c.ref, c.oldRef) {
		return errs
	}
	kind, policyErr := paramsOf(ctx, c.policy)
	ask := g.about(kind)
	ask.Verb, ask.Namespace, ask.Name = "get", c.ref.Namespace, c.ref.Name
	if c.ref.Name == "" {
		ask.Verb = "list"
	}
	err := g.ask(ctx, ask, func(user string) error {
		const rest = `to determine minimum required permissions and user %s does not have "%s" permission for all groups, versions and resources`
		switch {
		case policyErr != nil:
			return fmt.Errorf("unable to get policy %s "+rest, c.policy, user, ask.Verb)
		case kind != nil && ask.Resource == "*":
			return fmt.Errorf("unable to resolve paramKind %v "+rest, kind, user, ask.Verb)
		}
		return fmt.Errorf(`user %s does not have "%s" permission on the object referenced by paramRef`, user, ask.Verb)
	})
	if err != nil {
		return field.ErrorList{field.Forbidden(field.NewPath("spec", "paramRef"), err.Error())}
	}
	return nil
}

// about returns a question about the resource of a kind, or about all
// resources where it is not known.
func (g Grants) about(kind *admissionregistrationv1.ParamKind) *authz.Attributes {
	a := &authz.Attributes{Group: "*", Version: "*", Resource: "*"}
	if kind == nil {
		return a
	}
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return a
	}
	a.Group, a.Version = gv.Group, gv.Version
	if plural, ok := g.Resource(gv.WithKind(kind.Kind)); ok {
		a.Resource = plural
	}
	return a
}

// ask returns the refusal if the requester may not do what a says. Members of
// system:masters are not asked.
func (g Grants) ask(ctx context.Context, a *authz.Attributes, refusal func(user string) error) error {
	u := identity.FromContext(ctx)
	if u == nil {
		return errors.New("cannot identify user to authorize read access to parameters")
	}
	if u.InGroup(identity.GroupMasters) {
		return nil
	}
	a.User = u
	d, _, err := g.Authorizer.Authorize(ctx, a)
	switch {
	case d == authz.Allow:
		return nil
	case err != nil:
		return err
	}
	return refusal(fmt.Sprintf("&{%s %s %v %v}", u.Name, u.UID, u.Groups, u.Extra))
}
