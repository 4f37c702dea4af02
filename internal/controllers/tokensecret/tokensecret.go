// Package tokensecret fills Secrets of type kubernetes.io/service-account-token
// and removes them with their ServiceAccount.
package tokensecret

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// Sign makes a token of the account that is good as long as the secret exists.
type Sign func(account *corev1.ServiceAccount, secret *corev1.Secret) (string, error)

type reconciler struct {
	controller.Deps
	sign   Sign
	bundle []byte
}

// New makes the token secret controller; bundle is the cluster's CA, PEM. Its
// keys are secrets.
func New(d controller.Deps, sign Sign, bundle []byte) (controller.Runnable, error) {
	r := &reconciler{d, sign, bundle}
	return controller.New(d, "tokensecret", 2, r.reconcile,
		controller.Watch(d, &corev1.Secret{}, func(q controller.Queue, _, s *corev1.Secret) {
			if s != nil && s.Type == corev1.SecretTypeServiceAccountToken {
				controller.Add(q, s.Namespace, s.Name)
			}
		}),
		controller.Watch(d, &corev1.ServiceAccount{}, func(q controller.Queue, old, account *corev1.ServiceAccount) {
			if account == nil {
				account = old
			} else if old != nil {
				return
			}
			var list corev1.SecretList
			if err := d.Cache.List(context.Background(), &list, crclient.InNamespace(account.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
				d.Log.Error("listing the secrets of a service account", "account", controller.Key(account), "error", err)
			}
			for i := range list.Items {
				if s := &list.Items[i]; s.Type == corev1.SecretTypeServiceAccountToken && s.Annotations[corev1.ServiceAccountNameKey] == account.Name {
					controller.Add(q, s.Namespace, s.Name)
				}
			}
		}))
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached corev1.Secret
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	name := cached.Annotations[corev1.ServiceAccountNameKey]
	if cached.Type != corev1.SecretTypeServiceAccountToken || name == "" || cached.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	var account corev1.ServiceAccount
	err := r.Client.Get(ctx, types.NamespacedName{Namespace: key.Namespace, Name: name}, &account)
	uid := cached.Annotations[corev1.ServiceAccountUIDKey]
	switch {
	case apierrors.IsNotFound(err), err == nil && uid != "" && uid != string(account.UID):
		err := r.Client.Delete(ctx, &cached, crclient.Preconditions{UID: &cached.UID, ResourceVersion: &cached.ResourceVersion})
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	case err != nil:
		return reconcile.Result{}, err
	}
	secret := cached.DeepCopy()
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	changed := uid == ""
	metav1.SetMetaDataAnnotation(&secret.ObjectMeta, corev1.ServiceAccountUIDKey, string(account.UID))
	put := func(key string, value []byte) {
		if string(secret.Data[key]) != string(value) {
			secret.Data[key], changed = value, true
		}
	}
	put(corev1.ServiceAccountRootCAKey, r.bundle)
	if len(secret.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		put(corev1.ServiceAccountNamespaceKey, []byte(secret.Namespace))
	}
	if len(secret.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := r.sign(&account, secret)
		if err != nil {
			return reconcile.Result{}, err
		}
		put(corev1.ServiceAccountTokenKey, []byte(token))
	}
	if !changed {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, crclient.IgnoreNotFound(r.Client.Update(ctx, secret))
}
