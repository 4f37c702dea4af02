// Package apiserverlease removes the leases by which API servers tell that they
// are there (KEP-1965), when they are no longer renewed.
package apiserverlease

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

const period = time.Hour

// New makes the controller.
func New(d controller.Deps) (controller.Runnable, error) {
	return controller.New(d, "apiserverlease", 1, func(ctx context.Context, _ types.NamespacedName) (reconcile.Result, error) {
		return reconcile.Result{}, clean(ctx, d)
	}, controller.Tick(d, period))
}

func clean(ctx context.Context, d controller.Deps) error {
	var leases coordinationv1.LeaseList
	err := d.Client.List(ctx, &leases, crclient.InNamespace(metav1.NamespaceSystem), crclient.MatchingLabels{"apiserver.kubernetes.io/identity": "kube-apiserver"})
	if err != nil {
		return err
	}
	for i := range leases.Items {
		lease := &leases.Items[i]
		if !expired(&lease.Spec, d.Clock.Now()) {
			continue
		}
		// Its server may have come back since.
		err := d.Client.Delete(ctx, lease, crclient.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion})
		if crclient.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// expired reports whether the lease is over; one that does not say how long it
// lasts is.
func expired(s *coordinationv1.LeaseSpec, now time.Time) bool {
	return s.RenewTime == nil || s.LeaseDurationSeconds == nil ||
		s.RenewTime.Add(time.Duration(*s.LeaseDurationSeconds)*time.Second).Before(now)
}
