// Package webhook asks a webhook whose token it is (authentication.k8s.io
// TokenReview).
package webhook

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/util/wait"

	"skiff/internal/apiserver/webhook/kubeconfig"
	"skiff/internal/identity"
)

// remembered is how many answers are kept.
const remembered = 4096

// Authenticator implements bearer.Token. Answers hold for a while.
type Authenticator struct {
	hook      *kubeconfig.Webhook
	audiences []string
	ttl       time.Duration
	answers   *utilcache.LRUExpireCache
}

// New returns an authenticator that asks the webhook named in the kubeconfig
// file. Tokens must be for one of the audiences.
func New(file string, audiences []string, ttl time.Duration) (*Authenticator, error) {
	hook, err := kubeconfig.New(file, authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme, 30*time.Second,
		wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5})
	if err != nil {
		return nil, fmt.Errorf("token authentication: %w", err)
	}
	return &Authenticator{hook: hook, audiences: audiences, ttl: ttl, answers: utilcache.NewLRUExpireCache(remembered)}, nil
}

// AuthenticateToken implements bearer.Token.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*identity.User, error) {
	key := sha256.Sum256([]byte(token))
	if known, ok := a.answers.Get(key); ok {
		return known.(*identity.User), nil
	}
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: a.audiences}}
	answer := &authenticationv1.TokenReview{}
	if err := a.hook.Post(ctx, review, answer); err != nil {
		return nil, fmt.Errorf("the token webhook failed: %w", err)
	}
	user, err := a.user(&answer.Status)
	if err == nil && a.ttl > 0 {
		a.answers.Add(key, user, a.ttl)
	}
	return user, err
}

func (a *Authenticator) user(s *authenticationv1.TokenReviewStatus) (*identity.User, error) {
	if !s.Authenticated {
		if s.Error != "" {
			return nil, errors.New(s.Error)
		}
		return nil, nil
	}
	// A webhook that says nothing about audiences knows nothing of them: its
	// tokens are for the API server.
	if len(s.Audiences) > 0 && !slices.ContainsFunc(s.Audiences, func(got string) bool { return slices.Contains(a.audiences, got) }) {
		return nil, nil
	}
	u := &identity.User{Name: s.User.Username, UID: s.User.UID, Groups: slices.Clone(s.User.Groups)}
	if len(s.User.Extra) > 0 {
		u.Extra = map[string][]string{}
		for k, v := range s.User.Extra {
			u.Extra[k] = v
		}
	}
	if !u.InGroup(identity.GroupAuthenticated) {
		u.Groups = append(u.Groups, identity.GroupAuthenticated)
	}
	return u, nil
}
