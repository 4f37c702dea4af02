package kubelet

import (
	"context"
	"errors"

	authorizationv1 "k8s.io/api/authorization/v1"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/identity"
	"skiff/internal/kubelet/server"
)

// AuthorizeByReview returns a Config.Authorize that asks the API server
// whether the user may use the subresource of the node that the path stands
// for.
func AuthorizeByReview(c ctrl.Client, nodeName string) func(ctx context.Context, user *identity.User, verb, path string) error {
	return func(ctx context.Context, user *identity.User, verb, path string) error {
		extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
		for k, v := range user.Extra {
			extra[k] = v
		}
		reason := "no rule allows it"
		for _, subresource := range server.Subresources(path) {
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User: user.Name, UID: user.UID, Groups: user.Groups, Extra: extra,
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: nodeName,
				},
			}}
			if err := c.Create(ctx, review); err != nil {
				return err
			}
			if review.Status.Allowed {
				return nil
			}
			if review.Status.Reason != "" {
				reason = review.Status.Reason
			}
		}
		return errors.New(reason)
	}
}
