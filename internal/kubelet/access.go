package kubelet

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/identity"
	"skiff/internal/kubelet/server"
)

const (
	// knownTokens is of how many tokens is remembered whose they are, and
	// knownFor is for how long: the default of authentication.webhook.cacheTTL
	// in upstream's KubeletConfiguration.
	knownTokens = 1024
	knownFor    = 2 * time.Minute
)

// AuthenticateByReview returns a Config.Authenticate that asks the API server
// whose the token is.
func AuthenticateByReview(c ctrl.Client) func(ctx context.Context, token string) (*identity.User, error) {
	known := utilcache.NewLRUExpireCache(knownTokens)
	return func(ctx context.Context, token string) (*identity.User, error) {
		key := sha256.Sum256([]byte(token))
		if user, ok := known.Get(key); ok {
			return user.(*identity.User), nil
		}
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
		if err := c.Create(ctx, review); err != nil {
			return nil, err
		}
		if !review.Status.Authenticated {
			return nil, nil
		}
		user := identity.FromInfo(&review.Status.User)
		known.Add(key, user, knownFor)
		return user, nil
	}
}

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
