// Package bootstraptoken keeps bootstrap tokens: those that are over are
// removed, and the public ConfigMap cluster-info, by which machines find a
// cluster that they have a token of, is signed with each (Bootstrap Tokens
// documentation).
package bootstraptoken

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// secretType is that of tokens; the others are keys of their data.
const (
	secretType  = corev1.SecretType("bootstrap.kubernetes.io/token")
	namePrefix  = "bootstrap-token-"
	idKey       = "token-id"
	secretKey   = "token-secret"
	expirationK = "expiration"
	signingKey  = "usage-bootstrap-signing"
)

// What is signed, and the prefix of its signatures' keys.
const (
	infoName        = "cluster-info"
	kubeconfigKey   = "kubeconfig"
	signaturePrefix = "jws-kubeconfig-"
)

// NewCleaner makes the controller that removes tokens whose time is over.
func NewCleaner(d controller.Deps) (controller.Runnable, error) {
	return controller.New(d, "tokencleaner", 1, func(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
		var s corev1.Secret
		if err := d.Cache.Get(ctx, key, &s, crclient.UnsafeDisableDeepCopy); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
		left, ends := remaining(&s, d.Clock.Now())
		switch {
		case !ends:
			return reconcile.Result{}, nil
		case left > 0:
			return reconcile.Result{RequeueAfter: left}, nil
		}
		return reconcile.Result{}, crclient.IgnoreNotFound(d.Client.Delete(ctx, &s, crclient.Preconditions{UID: &s.UID}))
	}, watchTokens(d, func(q controller.Queue, s *corev1.Secret) { controller.Add(q, s.Namespace, s.Name) }))
}

// remaining returns how long the token is still good; ends is false for one
// without an end. An end that cannot be read is one that has come.
func remaining(s *corev1.Secret, now time.Time) (left time.Duration, ends bool) {
	text, ok := s.Data[expirationK]
	if !ok || len(text) == 0 {
		return 0, false
	}
	end, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return 0, true
	}
	return end.Sub(now), true
}

// NewSigner makes the controller that signs cluster-info. It has one key.
func NewSigner(d controller.Deps) (controller.Runnable, error) {
	info := types.NamespacedName{Namespace: metav1.NamespacePublic, Name: infoName}
	r := &signer{d, info}
	return controller.New(d, "bootstrapsigner", 1, r.reconcile,
		watchTokens(d, func(q controller.Queue, _ *corev1.Secret) { q.Add(controller.Request{NamespacedName: info}) }),
		controller.Watch(d, &corev1.ConfigMap{}, func(q controller.Queue, _, m *corev1.ConfigMap) {
			if m != nil && controller.Key(m) == info {
				q.Add(controller.Request{NamespacedName: info})
			}
		}))
}

type signer struct {
	controller.Deps
	info types.NamespacedName
}

func (r *signer) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached corev1.ConfigMap
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	content, ok := cached.Data[kubeconfigKey]
	if !ok {
		return reconcile.Result{}, nil
	}
	var list corev1.SecretList
	if err := r.Cache.List(ctx, &list, crclient.InNamespace(metav1.NamespaceSystem), crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	next := cached.DeepCopy()
	maps.DeleteFunc(next.Data, func(k, _ string) bool { return strings.HasPrefix(k, signaturePrefix) })
	var again time.Duration
	now := r.Clock.Now()
	for i := range list.Items {
		s := &list.Items[i]
		id, secret := string(s.Data[idKey]), s.Data[secretKey]
		left, ends := remaining(s, now)
		if s.Type != secretType || s.DeletionTimestamp != nil || string(s.Data[signingKey]) != "true" || len(secret) == 0 ||
			s.Name != namePrefix+id || ends && left <= 0 {
			continue
		}
		if ends && (again == 0 || left < again) {
			again = left
		}
		next.Data[signaturePrefix+id] = sign(content, id, secret)
	}
	if !maps.Equal(cached.Data, next.Data) {
		if err := r.Client.Update(ctx, next); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	return reconcile.Result{RequeueAfter: again}, nil
}

// sign makes a JWS (HS256) without its content, which the reader has anyway.
// The secrets are shorter than JOSE libraries accept.
func sign(content, id string, secret []byte) string {
	encode := base64.RawURLEncoding.EncodeToString
	header := encode([]byte(fmt.Sprintf(`{"alg":"HS256","kid":%q}`, id)))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(header + "." + encode([]byte(content))))
	return header + ".." + encode(mac.Sum(nil))
}
