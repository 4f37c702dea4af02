// Package serviceaccount authenticates by service account tokens.
package serviceaccount

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/identity"
	"skiff/internal/serviceaccount"
)

// The keys of a user's extra values, as upstream's.
const (
	podNameKey      = "authentication.kubernetes.io/pod-name"
	podUIDKey       = "authentication.kubernetes.io/pod-uid"
	nodeNameKey     = "authentication.kubernetes.io/node-name"
	nodeUIDKey      = "authentication.kubernetes.io/node-uid"
	credentialIDKey = "authentication.kubernetes.io/credential-id"
)

// remembered is how many tokens' signatures are not checked again. Everything
// else about a token is checked each time.
const remembered = 4096

// Config is what the authenticator needs.
type Config struct {
	Verifier *serviceaccount.Verifier
	// Audiences are the API server's own: a token must be for one of them.
	Audiences []string
	// Readers find the objects that tokens are bound to, in order: the cache
	// first, and then, since it may be a moment late, the store.
	Readers []client.Reader
	// Secrets notes when the tokens of Secrets were used.
	Secrets client.Writer
	Clock   clock.PassiveClock
	Log     *slog.Logger
	// Warn warns the requester, Annotate adds to the audit record.
	Warn     func(ctx context.Context, text string)
	Annotate func(ctx context.Context, key, value string)
	// Registry gets the metrics, if there is one.
	Registry prometheus.Registerer
}

// Authenticator implements bearer.Token.
type Authenticator struct {
	Config
	metrics  *metrics
	verified *lru.Cache[[sha256.Size]byte, *serviceaccount.Claims]
}

// New returns an authenticator.
func New(c Config) (*Authenticator, error) {
	verified, err := lru.New[[sha256.Size]byte, *serviceaccount.Claims](remembered)
	if err != nil {
		return nil, err
	}
	return &Authenticator{Config: c, verified: verified, metrics: newMetrics(c.Registry)}, nil
}

// AuthenticateToken implements bearer.Token.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*identity.User, error) {
	user, _, err := a.Review(ctx, token, a.Audiences)
	return user, err
}

// Review answers a TokenReview: the user, and for which of the audiences the
// token is good.
func (a *Authenticator) Review(ctx context.Context, token string, audiences []string) (*identity.User, []string, error) {
	claims, err := a.claims(token)
	if errors.Is(err, serviceaccount.ErrNotOurs) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	meant := []string(claims.Audience)
	if claims.Legacy {
		meant = a.Audiences
	}
	forAudiences := intersect(audiences, meant)
	if len(forAudiences) == 0 {
		return nil, nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", meant, audiences)
	}
	now := a.Clock.Now()
	if err := claims.CheckTime(now); err != nil {
		return nil, nil, err
	}
	if claims.Legacy {
		err = a.checkLegacy(ctx, token, &claims.Kubernetes, now)
	} else {
		err = a.checkBound(ctx, &claims.Kubernetes, now.Add(-jwt.DefaultLeeway))
	}
	if err != nil {
		return nil, nil, err
	}
	if !claims.Legacy {
		a.noteAge(ctx, claims, now)
	}
	return userOf(claims), forAudiences, nil
}

// claims verifies the signature, once.
func (a *Authenticator) claims(token string) (*serviceaccount.Claims, error) {
	sum := sha256.Sum256([]byte(token))
	if c, ok := a.verified.Get(sum); ok {
		return c, nil
	}
	c, err := a.Verifier.Verify(token)
	if err == nil {
		a.verified.Add(sum, c)
	}
	return c, err
}

func intersect(a, b []string) (both []string) {
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both
}

func userOf(c *serviceaccount.Claims) *identity.User {
	b := &c.Kubernetes
	u := &identity.User{
		Name: serviceaccount.Username(b.Namespace, b.ServiceAccount.Name), UID: b.ServiceAccount.UID,
		Groups: []string{
			identity.GroupServiceAccounts, identity.GroupServiceAccounts + ":" + b.Namespace, identity.GroupAuthenticated,
		},
		Extra: map[string][]string{},
	}
	add := func(key, value string) {
		if value != "" {
			u.Extra[key] = []string{value}
		}
	}
	if b.Pod != nil {
		add(podNameKey, b.Pod.Name)
		add(podUIDKey, b.Pod.UID)
	}
	if b.Node != nil {
		add(nodeNameKey, b.Node.Name)
		add(nodeUIDKey, b.Node.UID)
	}
	if c.ID != "" {
		add(credentialIDKey, serviceaccount.CredentialID(c.ID))
	}
	return u
}

var errInvalidated = errors.New("service account token has been invalidated")

// checkBound returns an error unless all that the token is bound to is there,
// and not in deletion since before the given time.
func (a *Authenticator) checkBound(ctx context.Context, b *serviceaccount.Binding, before time.Time) error {
	if _, err := a.account(ctx, b, before); err != nil {
		return err
	}
	// The node of a pod's token is told, not checked: the pod ends with it.
	if b.Node != nil && b.Pod == nil {
		if err := a.checkRef(ctx, "node", "", *b.Node, &corev1.Node{}, before); err != nil {
			return err
		}
	}
	if b.Secret != nil {
		if err := a.checkRef(ctx, "secret", b.Namespace, *b.Secret, &corev1.Secret{}, before); err != nil {
			return err
		}
	}
	if b.Pod != nil {
		return a.checkRef(ctx, "pod", b.Namespace, *b.Pod, &corev1.Pod{}, before)
	}
	return nil
}

// account returns the token's account, unless it is in deletion since before
// the given time.
func (a *Authenticator) account(ctx context.Context, b *serviceaccount.Binding, before time.Time) (*corev1.ServiceAccount, error) {
	account := &corev1.ServiceAccount{}
	if err := a.get(ctx, b.Namespace, b.ServiceAccount, account); err != nil {
		return nil, err
	}
	if deleted(account, before) {
		return nil, fmt.Errorf("service account %s/%s has been deleted", b.Namespace, b.ServiceAccount.Name)
	}
	if string(account.UID) != b.ServiceAccount.UID {
		return nil, fmt.Errorf("service account UID (%s) does not match claim (%s)", account.UID, b.ServiceAccount.UID)
	}
	return account, nil
}

func (a *Authenticator) checkRef(ctx context.Context, kind, namespace string, ref serviceaccount.Ref, obj client.Object, before time.Time) error {
	if err := a.get(ctx, namespace, ref, obj); err != nil || deleted(obj, before) {
		return errInvalidated
	}
	if string(obj.GetUID()) != ref.UID {
		return fmt.Errorf("%s UID (%s) does not match service account %s ref claim (%s)", kind, obj.GetUID(), kind, ref.UID)
	}
	return nil
}

func deleted(obj client.Object, before time.Time) bool {
	t := obj.GetDeletionTimestamp()
	return t != nil && t.Time.Before(before)
}

// get reads the object that ref names. One that is not there, or is of another
// life, in one reader may be in the next.
func (a *Authenticator) get(ctx context.Context, namespace string, ref serviceaccount.Ref, into client.Object) (err error) {
	for _, r := range a.Readers {
		err = r.Get(ctx, client.ObjectKey{Namespace: namespace, Name: ref.Name}, into, client.UnsafeDisableDeepCopy)
		if err == nil && string(into.GetUID()) == ref.UID {
			return nil
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return err
}
