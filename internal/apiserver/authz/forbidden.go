package authz

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Forbidden makes upstream's refusal of a request.
func Forbidden(a *Attributes, reason string) error {
	if !a.IsResource() {
		text := fmt.Sprintf("User %q cannot %s path %q", a.User.Name, a.Verb, a.Path)
		if reason != "" {
			text += ": " + reason
		}
		err := apierrors.NewForbidden(schema.GroupResource{}, "", nil)
		err.ErrStatus.Message = "forbidden: " + text
		return err
	}
	res := a.Resource
	if a.Subresource != "" {
		res += "/" + a.Subresource
	}
	text := fmt.Sprintf("User %q cannot %s resource %q in API group %q", a.User.Name, a.Verb, res, a.Group)
	if a.Namespace != "" {
		text += fmt.Sprintf(" in the namespace %q", a.Namespace)
	} else {
		text += " at the cluster scope"
	}
	if reason != "" {
		text += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name, fmt.Errorf("%s", text))
}

type verbKey struct{}

// WithVerb returns ctx with the verb of the request, for what is authorized in
// the course of it.
func WithVerb(ctx context.Context, verb string) context.Context {
	return context.WithValue(ctx, verbKey{}, verb)
}

// Verb returns the verb of the request, or "" where it is not known.
func Verb(ctx context.Context) string {
	verb, _ := ctx.Value(verbKey{}).(string)
	return verb
}
