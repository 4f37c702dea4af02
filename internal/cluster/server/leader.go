package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"skiff/internal/cluster"
	"skiff/internal/identity"
)

// The times of an election, upstream's defaults.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// errDeposed ends a server whose lease another one has taken: what it had
// begun must not go on.
var errDeposed = errors.New("another server leads now; this one must start afresh")

// lead runs work while this server leads those that share its database; one
// with a database of its own always does.
func lead(ctx context.Context, p *cluster.ControlPlane, work func(context.Context, *cluster.ControlPlane) error) error {
	if !p.Config.Datastore.Shared() {
		return work(ctx, p)
	}
	config, err := p.RESTConfig(identity.Component("system:kube-controller-manager"))
	if err != nil {
		return err
	}
	leases, err := coordinationclient.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: "kube-controller-manager",
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: cluster.LeaderLease},
			Client:     leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: p.Config.Node.Name + "_" + string(uuid.NewUUID())},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) {
				if err := work(leading, p); err != nil && leading.Err() == nil {
					cancel(err)
				}
			},
			OnStoppedLeading: func() { cancel(errDeposed) },
		},
	})
	if err != nil {
		return fmt.Errorf("preparing the election of a leader: %w", err)
	}
	elector.Run(ctx)
	return context.Cause(ctx)
}
