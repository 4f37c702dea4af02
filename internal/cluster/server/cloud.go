package server

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"skiff/internal/client"
	"skiff/internal/cloud/local"
	"skiff/internal/cloud/manager"
	"skiff/internal/cluster"
)

// runCloud runs the controllers of the provider for machines without a cloud.
func runCloud(ctx context.Context, p *cluster.ControlPlane, account func(string) client.Set) error {
	c := p.Config
	return manager.Run(ctx, manager.Config{
		Provider: local.Provider{Balancer: &local.Balancer{Reader: p.Clients.Cache().Cache, Reserved: map[local.Port]string{
			{Protocol: corev1.ProtocolTCP, Number: int32(p.Address.Port())}: "the API server",
			{Protocol: corev1.ProtocolTCP, Number: 10250}:                   "the kubelet",
		}}},
		Set: account, ClusterCIDRs: []netip.Prefix{c.ClusterCIDR}, Clock: clock.RealClock{}, Log: c.Log,
	})
}
