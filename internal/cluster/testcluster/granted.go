package testcluster

import (
	"context"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"skiff/internal/identity"
)

// Granted waits until the user may do what is asked: authorizers follow roles,
// they are not told of them.
func (c *Cluster) Granted(t testing.TB, user *identity.User, ask authorizationv1.ResourceAttributes) {
	t.Helper()
	client := c.Set(user).Client
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &ask}}
		err := client.Create(ctx, review)
		return review.Status.Allowed, err
	})
	if err != nil {
		t.Fatalf("%s never came to have %s on %s: %v", user.Name, ask.Verb, ask.Resource, err)
	}
}
