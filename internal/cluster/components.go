package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis/core"
)

// LeaderLease is the lease of the server whose controllers and scheduler work,
// among those that share a database. It is in the namespace kube-system.
const LeaderLease = "kube-controller-manager"

// components are the parts of the control plane by the names of upstream's
// daemons.
func (p *ControlPlane) components(clk clock.PassiveClock) []core.Component {
	led := func(ctx context.Context) error { return p.led(ctx, clk.Now()) }
	return []core.Component{
		{Name: "scheduler", Check: led},
		{Name: "controller-manager", Check: led},
		{Name: "etcd-0", Check: func(ctx context.Context) error { return p.Verbs.Cache().Sync(ctx) }},
	}
}

// led returns an error if no server's controllers and scheduler work. Those of a
// server with a database of its own always do: it ends if they fail.
func (p *ControlPlane) led(ctx context.Context, now time.Time) error {
	if !p.Config.Datastore.Shared() {
		return nil
	}
	lease := &coordinationv1.Lease{}
	key := client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: LeaderLease}
	if err := p.Clients.Cache().Cache.Get(ctx, key, lease, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("no server leads: %w", err)
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" || lease.Spec.RenewTime == nil || lease.Spec.LeaseDurationSeconds == nil {
		return errors.New("no server leads")
	}
	end := lease.Spec.RenewTime.Add(time.Duration(*lease.Spec.LeaseDurationSeconds) * time.Second)
	if now.After(end) {
		return fmt.Errorf("no server leads: the lease of %s ended at %s", *lease.Spec.HolderIdentity, end.UTC().Format(time.RFC3339))
	}
	return nil
}
