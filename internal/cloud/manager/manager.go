// Package manager runs the controllers of a cloud provider: those that the
// provider can serve.
package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/utils/clock"

	"skiff/internal/client"
	"skiff/internal/cloud/node"
	"skiff/internal/cloud/route"
	"skiff/internal/cloud/service"
	"skiff/internal/controllers/controller"
)

// Config is what the controllers need.
type Config struct {
	Provider cloudprovider.Interface
	// Set returns the client of the ServiceAccount of that name in kube-system.
	Set func(serviceAccount string) client.Set
	// REST is handed to the provider for controllers of its own.
	REST *rest.Config
	// ClusterName tells this cluster's things in the cloud from others';
	// ClusterCIDRs are its pods'.
	ClusterName  string
	ClusterCIDRs []netip.Prefix
	// NoRoutes leaves routes to others even if the provider could make them.
	NoRoutes bool
	Clock    clock.WithTicker
	Log      *slog.Logger
}

// Run runs the controllers until ctx ends or one of them fails.
func Run(ctx context.Context, c Config) error {
	if c.ClusterName == "" {
		c.ClusterName = "kubernetes"
	}
	parts, err := c.controllers()
	if err != nil {
		return err
	}
	c.Provider.Initialize(builder{c.REST}, ctx.Done())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var problems []error
	for name, part := range parts {
		wg.Go(func() {
			if err := part.Start(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, fmt.Errorf("%s: %w", name, err))
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(problems...)
}

// controllers makes those that the provider can serve, by name.
func (c *Config) controllers() (map[string]controller.Runnable, error) {
	parts := map[string]controller.Runnable{}
	var problems []error
	add := func(name, account string, make func(controller.Deps) (controller.Runnable, error)) {
		r, err := make(controller.Deps{Set: c.Set(account), Clock: c.Clock, Log: c.Log.With("controller", name)})
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
			return
		}
		parts[name] = r
	}
	if balancer, ok := c.Provider.LoadBalancer(); ok {
		add("service", "service-controller", func(d controller.Deps) (controller.Runnable, error) {
			return service.New(service.Config{Client: d.Set, Balancer: balancer, ClusterName: c.ClusterName, Log: d.Log}), nil
		})
	}
	if instances := node.Instances(c.Provider); instances != nil {
		add("cloudnode", "node-controller", func(d controller.Deps) (controller.Runnable, error) { return node.NewInitializer(d, instances) })
		add("cloudnodelifecycle", "node-controller", func(d controller.Deps) (controller.Runnable, error) { return node.NewLifecycle(d, instances) })
	}
	if routes, ok := c.Provider.Routes(); ok && !c.NoRoutes {
		add("route", "route-controller", func(d controller.Deps) (controller.Runnable, error) {
			return route.New(d, routes, route.Options{ClusterName: c.ClusterName, ClusterCIDRs: c.ClusterCIDRs})
		})
	}
	return parts, errors.Join(problems...)
}

// builder implements cloudprovider.ControllerClientBuilder.
type builder struct{ config *rest.Config }

func (b builder) Config(name string) (*rest.Config, error) {
	if b.config == nil {
		return nil, errors.New("this cloud controller was started without a way to the API over HTTP")
	}
	return rest.AddUserAgent(rest.CopyConfig(b.config), name), nil
}

func (b builder) Client(name string) (kubernetes.Interface, error) {
	config, err := b.Config(name)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// ConfigOrDie and ClientOrDie are the interface's: providers call them where
// they have no way to return an error.
func (b builder) ConfigOrDie(name string) *rest.Config { return must(b.Config(name)) }

func (b builder) ClientOrDie(name string) kubernetes.Interface { return must(b.Client(name)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
