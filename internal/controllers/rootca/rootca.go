// Package rootca publishes the cluster's CA certificate in every namespace, in
// the ConfigMap kube-root-ca.crt.
package rootca

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

const (
	name            = "kube-root-ca.crt"
	description     = "kubernetes.io/description"
	descriptionText = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

type reconciler struct {
	controller.Deps
	data map[string]string
}

// New makes the root CA controller; bundle is PEM. Its keys are namespaces.
func New(d controller.Deps, bundle []byte) (controller.Runnable, error) {
	r := &reconciler{d, map[string]string{"ca.crt": string(bundle)}}
	return controller.New(d, "rootca", 1, r.reconcile,
		controller.WatchSelf(d, &corev1.Namespace{}),
		controller.Watch(d, &corev1.ConfigMap{}, func(q controller.Queue, old, m *corev1.ConfigMap) {
			if m == nil {
				m = old
			}
			if m.Name == name {
				controller.Add(q, "", m.Namespace)
			}
		}))
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	ok, err := controller.NamespaceActive(ctx, r.Cache, key.Name)
	if err != nil || !ok {
		return reconcile.Result{}, err
	}
	var m corev1.ConfigMap
	err = r.Cache.Get(ctx, types.NamespacedName{Namespace: key.Name, Name: name}, &m, crclient.UnsafeDisableDeepCopy)
	switch {
	case apierrors.IsNotFound(err):
		err = r.Client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: name, Annotations: map[string]string{description: descriptionText}},
			Data:       r.data,
		})
		if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			err = nil
		}
	case err == nil && (!maps.Equal(m.Data, r.data) || m.Annotations[description] == ""):
		next := m.DeepCopy()
		next.Data = r.data
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		next.Annotations[description] = descriptionText
		err = r.Client.Update(ctx, next)
	}
	return reconcile.Result{}, err
}
