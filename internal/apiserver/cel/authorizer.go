package cel

import (
	"context"

	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/library"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// RequestResource is what the variable authorizer.requestResource is about.
type RequestResource struct {
	Resource                     schema.GroupVersionResource
	Subresource, Namespace, Name string
}

// Authorizers returns the values of the variables authorizer and
// authorizer.requestResource for a request of u.
func Authorizers(z authz.Authorizer, u *identity.User, r RequestResource) (general, resource ref.Val) {
	info := &user.DefaultInfo{}
	if u != nil {
		info = &user.DefaultInfo{Name: u.Name, UID: u.UID, Groups: u.Groups, Extra: u.Extra}
	}
	return library.NewAuthorizerVal(info, checks{z}), library.NewResourceAuthorizerVal(info, checks{z}, named{r})
}

// checks answers the library's questions.
type checks struct{ authz.Authorizer }

func (c checks) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	u := a.GetUser()
	attrs := &authz.Attributes{
		User: &identity.User{Name: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: u.GetExtra()},
		Verb: a.GetVerb(),
	}
	if a.IsResourceRequest() {
		attrs.Group, attrs.Version, attrs.Resource, attrs.Subresource = a.GetAPIGroup(), a.GetAPIVersion(), a.GetResource(), a.GetSubresource()
		attrs.Namespace, attrs.Name = a.GetNamespace(), a.GetName()
		if fields, err := a.GetFieldSelector(); err == nil {
			attrs.FieldSelector = fields
		}
		if labels, err := a.GetLabelSelector(); err == nil {
			attrs.LabelSelector = labels
		}
	} else {
		attrs.Path = a.GetPath()
	}
	d, reason, err := c.Authorizer.Authorize(ctx, attrs)
	switch d {
	case authz.Allow:
		return authorizer.DecisionAllow, reason, err
	case authz.Deny:
		return authorizer.DecisionDeny, reason, err
	}
	return authorizer.DecisionNoOpinion, reason, err
}

// named is a RequestResource in the library's terms.
type named struct{ RequestResource }

func (n named) GetName() string                          { return n.Name }
func (n named) GetNamespace() string                     { return n.Namespace }
func (n named) GetResource() schema.GroupVersionResource { return n.Resource }
func (n named) GetSubresource() string                   { return n.Subresource }
