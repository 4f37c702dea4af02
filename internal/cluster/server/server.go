// Package server runs a whole server: control plane, controllers, scheduler,
// cloud controller and, unless told otherwise, a node.
package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/clock"

	"skiff/internal/client"
	"skiff/internal/cluster"
	"skiff/internal/cluster/node"
	"skiff/internal/controllers"
	"skiff/internal/controllers/csr"
	"skiff/internal/controllers/localpath"
	"skiff/internal/controllers/podautoscaler"
	"skiff/internal/dns"
	"skiff/internal/identity"
	"skiff/internal/scheduler"
	"skiff/internal/scheduler/config"
)

// Run runs a server until ctx ends or a part of it fails.
func Run(ctx context.Context, c cluster.ServerConfig) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The API is served before its users start and after they have stopped.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	p, err := cluster.OpenControlPlane(serving, c)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() {
		err := p.Run(serving)
		cancel(fmt.Errorf("API server: %w", err))
		served <- err
	}()

	var wg sync.WaitGroup
	part := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	if err := start(ctx, p, part); err != nil {
		cancel(err)
	} else if p.Config.Ready != nil {
		p.Config.Ready()
	}
	<-ctx.Done()
	p.Drain()
	wg.Wait()
	stopServing()
	<-served
	return context.Cause(ctx)
}

// start starts everything that uses the API.
func start(ctx context.Context, p *cluster.ControlPlane, part func(string, func(context.Context) error)) error {
	c := p.Config
	kubeconfig, err := p.PKI.AdminKubeconfig("skiff", p.URL())
	if err != nil {
		return err
	}
	if err := kubeconfig.Write(c.KubeconfigPath); err != nil {
		return err
	}
	as := func(u *identity.User) client.Set { return p.Clients.Set(ctx, u) }
	admin := as(identity.Loopback())
	if err := dns.EnsureService(ctx, admin.Client, []netip.Addr{c.Node.ClusterDNS}); err != nil {
		return err
	}
	if err := localpath.EnsureClass(ctx, admin.Client); err != nil {
		return err
	}
	part("control", func(ctx context.Context) error { return lead(ctx, p, control) })
	if c.DisableNode {
		return nil
	}
	// The node in this process is given its identity: it needs no client
	// certificate.
	_, serving, err := p.PKI.Kubelet(c.Node.Name, c.Node.IP)
	if err != nil {
		return err
	}
	part("node", func(ctx context.Context) error {
		return node.Run(ctx, node.Config{
			NodeConfig: c.Node, ClusterCIDR: c.ClusterCIDR, ServiceCIDR: c.ServiceCIDR,
			Node:        as(&identity.User{Name: identity.NodePrefix + c.Node.Name, Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}}),
			Network:     as(&identity.User{Name: identity.NodePrefix + c.Node.Name, Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}}),
			ServingCert: func() (*tls.Certificate, error) { return serving.Certificate(), nil },
			ClientCA:    p.PKI.CA.Pool(), Log: c.Log,
		})
	})
	return nil
}

// control runs what decides for the whole cluster: controllers, scheduler and
// cloud controller.
func control(ctx context.Context, p *cluster.ControlPlane) error {
	c := p.Config
	as := func(u *identity.User) client.Set { return p.Clients.Set(ctx, u) }
	account := func(name string) client.Set { return as(serviceAccount(metav1.NamespaceSystem, name)) }
	autoscaler, err := p.RESTConfig(serviceAccount(metav1.NamespaceSystem, "horizontal-pod-autoscaler"))
	if err != nil {
		return err
	}
	all, err := controllers.New(ctx, controllers.Config{
		Set: account, Discover: p.PreferredResources,
		CABundle: p.PKI.CA.PEM, TrustBundles: p.Serves("certificates.k8s.io", "clustertrustbundles"), ClusterCIDRs: []netip.Prefix{c.ClusterCIDR}, ServiceCIDRs: []netip.Prefix{c.ServiceCIDR},
		Certificates: csr.Options{Signer: p.PKI.CA, ApproveServing: true}, LocalVolumes: p.NodeVolumes(), Clock: clock.RealClock{}, Log: c.Log,
		Autoscaler: podautoscaler.Options{REST: autoscaler},
		Server:     as(identity.Loopback()),
		Schemas:    schemas(p),
		Metrics:    p.Metrics,
		SignToken:  p.SecretToken, Manager: as(identity.Component("system:kube-controller-manager")),
	})
	if err != nil {
		return err
	}
	var profiles *configv1.KubeSchedulerConfiguration
	if c.SchedulerConfig != "" {
		if profiles, err = config.ReadFile(c.SchedulerConfig); err != nil {
			return err
		}
	}
	sched, err := scheduler.New(scheduler.Config{
		Configuration: profiles,
		Client:        as(identity.Component("system:kube-scheduler")), Clock: clock.RealClock{}, Log: c.Log.With("part", "scheduler"), Seed: rand.Uint64(),
		Metrics: p.Metrics,
	})
	if err != nil {
		return err
	}
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return all.Run(ctx) })
	work.Go(func() error { return sched.Run(ctx) })
	if !c.DisableCloud {
		work.Go(func() error { return runCloud(ctx, p, account) })
	}
	return work.Wait()
}

func serviceAccount(namespace, name string) *identity.User {
	return &identity.User{
		Name: identity.ServiceAccountPrefix + namespace + ":" + name,
		Groups: []string{
			identity.GroupServiceAccounts, identity.GroupServiceAccounts + ":" + namespace, identity.GroupAuthenticated,
		},
	}
}
