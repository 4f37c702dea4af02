// Package webhook asks a webhook whose token it is (authentication.k8s.io
// TokenReview).
package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authenticationv1beta1 "k8s.io/api/authentication/v1beta1"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/util/wait"

	"skiff/internal/apiserver/webhook/kubeconfig"
	"skiff/internal/identity"
)

// remembered is how many answers are kept.
const remembered = 4096

// Options say which webhook is asked.
type Options struct {
	// Kubeconfig is the file that names the webhook, Version that of the
	// reviews it speaks: v1 or v1beta1.
	Kubeconfig, Version string
	// Tokens must be for one of the audiences.
	Audiences []string
	// Answers hold for TTL.
	TTL time.Duration
}

// Authenticator implements bearer.Token.
type Authenticator struct {
	o       Options
	ask     func(ctx context.Context, spec authenticationv1.TokenReviewSpec) (authenticationv1.TokenReviewStatus, error)
	answers *utilcache.LRUExpireCache
}

// New returns an authenticator.
func New(o Options) (*Authenticator, error) {
	a := &Authenticator{o: o, answers: utilcache.NewLRUExpireCache(remembered)}
	var hook *kubeconfig.Webhook
	var err error
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5}
	switch o.Version {
	case "v1":
		hook, err = kubeconfig.New(o.Kubeconfig, authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme, 30*time.Second, backoff)
		a.ask = func(ctx context.Context, spec authenticationv1.TokenReviewSpec) (authenticationv1.TokenReviewStatus, error) {
			answer := &authenticationv1.TokenReview{}
			err := hook.Post(ctx, &authenticationv1.TokenReview{Spec: spec}, answer)
			return answer.Status, err
		}
	case "v1beta1":
		hook, err = kubeconfig.New(o.Kubeconfig, authenticationv1beta1.SchemeGroupVersion, authenticationv1beta1.AddToScheme, 30*time.Second, backoff)
		a.ask = func(ctx context.Context, spec authenticationv1.TokenReviewSpec) (status authenticationv1.TokenReviewStatus, err error) {
			answer := &authenticationv1beta1.TokenReview{}
			if err := hook.Post(ctx, &authenticationv1beta1.TokenReview{Spec: authenticationv1beta1.TokenReviewSpec(spec)}, answer); err != nil {
				return status, err
			}
			// The two versions have the same form.
			data, err := json.Marshal(&answer.Status)
			if err == nil {
				err = json.Unmarshal(data, &status)
			}
			return status, err
		}
	default:
		err = fmt.Errorf("there is no version %q of token reviews, choose v1 or v1beta1", o.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("token authentication: %w", err)
	}
	return a, nil
}

// AuthenticateToken implements bearer.Token.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*identity.User, error) {
	key := sha256.Sum256([]byte(token))
	if known, ok := a.answers.Get(key); ok {
		return known.(*identity.User), nil
	}
	status, err := a.ask(ctx, authenticationv1.TokenReviewSpec{Token: token, Audiences: a.o.Audiences})
	if err != nil {
		return nil, fmt.Errorf("the token webhook failed: %w", err)
	}
	user, err := a.user(&status)
	if err == nil && a.o.TTL > 0 {
		a.answers.Add(key, user, a.o.TTL)
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
	if len(s.Audiences) > 0 && !slices.ContainsFunc(s.Audiences, func(got string) bool { return slices.Contains(a.o.Audiences, got) }) {
		return nil, nil
	}
	u := identity.FromInfo(&s.User)
	if !u.InGroup(identity.GroupAuthenticated) {
		u.Groups = append(u.Groups, identity.GroupAuthenticated)
	}
	return u, nil
}
