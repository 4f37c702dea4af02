// Package serviceaccount keeps the ServiceAccount "default" in every namespace.
package serviceaccount

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

const name = "default"

type reconciler struct{ controller.Deps }

// New makes the ServiceAccount controller. Its keys are namespaces.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{d}
	return controller.New(d, "serviceaccount", 1, r.reconcile,
		controller.WatchSelf(d, &corev1.Namespace{}),
		controller.Watch(d, &corev1.ServiceAccount{}, func(q controller.Queue, old, account *corev1.ServiceAccount) {
			if account == nil && old.Name == name {
				controller.Add(q, "", old.Namespace)
			}
		}))
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	ok, err := controller.NamespaceActive(ctx, r.Cache, key.Name)
	if err != nil || !ok {
		return reconcile.Result{}, err
	}
	err = r.Cache.Get(ctx, types.NamespacedName{Namespace: key.Name, Name: name}, &corev1.ServiceAccount{})
	if !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	err = r.Client.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: name}})
	if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, err
}
