// Package trustbundle publishes the authority of the API server's certificate
// as a ClusterTrustBundle of the signer kubernetes.io/kube-apiserver-serving.
package trustbundle

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

const signer = "kubernetes.io/kube-apiserver-serving"

type reconciler struct {
	controller.Deps
	want certificatesv1beta1.ClusterTrustBundle
}

// New makes the publisher; bundle is PEM. It has one key, since there is one
// bundle to publish.
func New(d controller.Deps, bundle []byte) (controller.Runnable, error) {
	sum := sha256.Sum256(bundle)
	r := &reconciler{d, certificatesv1beta1.ClusterTrustBundle{
		// Servers with different authorities do not overwrite one another's.
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s:%x", strings.ReplaceAll(signer, "/", ":"), sum[:12])},
		Spec:       certificatesv1beta1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(bundle)},
	}}
	return controller.New(d, "trustbundle", 1, r.reconcile, controller.Once(),
		controller.Watch(d, &certificatesv1beta1.ClusterTrustBundle{}, func(q controller.Queue, old, b *certificatesv1beta1.ClusterTrustBundle) {
			if b == nil {
				b = old
			}
			if b.Spec.SignerName == signer {
				q.Add(controller.Request{})
			}
		}))
}

// reconcile publishes the bundle, then removes those of earlier authorities.
func (r *reconciler) reconcile(ctx context.Context, _ types.NamespacedName) (reconcile.Result, error) {
	var all certificatesv1beta1.ClusterTrustBundleList
	if err := r.Cache.List(ctx, &all, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	var published *certificatesv1beta1.ClusterTrustBundle
	var outdated []*certificatesv1beta1.ClusterTrustBundle
	for i := range all.Items {
		switch b := &all.Items[i]; {
		case b.Name == r.want.Name:
			published = b
		case b.Spec.SignerName == signer:
			outdated = append(outdated, b)
		}
	}
	if err := r.publish(ctx, published); err != nil {
		return reconcile.Result{}, err
	}
	var problems []error
	for _, b := range outdated {
		problems = append(problems, crclient.IgnoreNotFound(r.Client.Delete(ctx, b)))
	}
	return reconcile.Result{}, errors.Join(problems...)
}

func (r *reconciler) publish(ctx context.Context, published *certificatesv1beta1.ClusterTrustBundle) error {
	switch {
	case published == nil:
		err := r.Client.Create(ctx, r.want.DeepCopy())
		if apierrors.IsAlreadyExists(err) {
			return nil // the cache will tell
		}
		return err
	case published.Spec.TrustBundle != r.want.Spec.TrustBundle:
		next := published.DeepCopy()
		next.Spec.TrustBundle = r.want.Spec.TrustBundle
		return r.Client.Update(ctx, next)
	}
	return nil
}
