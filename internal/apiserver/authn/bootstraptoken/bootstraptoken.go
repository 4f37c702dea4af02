// Package bootstraptoken authenticates by the tokens with which machines join,
// "<id>.<secret>", each kept in a Secret bootstrap-token-<id> of kube-system.
package bootstraptoken

import (
	"context"
	"crypto/subtle"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/identity"
)

const (
	secretPrefix = "bootstrap-token-"
	userPrefix   = "system:bootstrap:"
)

// Authenticator implements bearer.Token. A token that is unknown, ended or not
// meant for authentication is nobody's.
type Authenticator struct {
	secrets client.Reader
	clock   clock.PassiveClock
	token   *regexp.Regexp
	group   *regexp.Regexp
}

// New returns an authenticator for the tokens in secrets.
func New(secrets client.Reader, c clock.PassiveClock) *Authenticator {
	return &Authenticator{
		secrets: secrets, clock: c,
		token: regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`),
		group: regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`),
	}
}

// AuthenticateToken implements bearer.Token.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*identity.User, error) {
	parts := a.token.FindStringSubmatch(token)
	if parts == nil {
		return nil, nil
	}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: secretPrefix + parts[1]}
	if err := a.secrets.Get(ctx, key, secret, client.UnsafeDisableDeepCopy); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if !a.valid(secret, parts[1], parts[2]) {
		return nil, nil
	}
	groups, err := a.groups(secret)
	if err != nil {
		return nil, err
	}
	return &identity.User{Name: userPrefix + parts[1], Groups: groups}, nil
}

func (a *Authenticator) valid(secret *corev1.Secret, id, value string) bool {
	if secret.DeletionTimestamp != nil || secret.Type != corev1.SecretTypeBootstrapToken ||
		string(secret.Data["token-id"]) != id ||
		subtle.ConstantTimeCompare(secret.Data["token-secret"], []byte(value)) != 1 ||
		string(secret.Data["usage-bootstrap-authentication"]) != "true" {
		return false
	}
	expiration := string(secret.Data["expiration"])
	if expiration == "" {
		return true
	}
	end, err := time.Parse(time.RFC3339, expiration)
	return err == nil && a.clock.Now().Before(end)
}

func (a *Authenticator) groups(secret *corev1.Secret) ([]string, error) {
	groups := []string{identity.GroupBootstrappers}
	if extra := string(secret.Data["auth-extra-groups"]); extra != "" {
		for group := range strings.SplitSeq(extra, ",") {
			if !a.group.MatchString(group) {
				return nil, fmt.Errorf("bootstrap token secret %s: auth-extra-groups: %q must match %s", secret.Name, group, a.group)
			}
			groups = append(groups, group)
		}
	}
	return append(groups, identity.GroupAuthenticated), nil
}
