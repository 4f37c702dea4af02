// Package testcluster starts a whole API server for tests, on a port of its
// own and with a database in the test's directory. Several run side by side in
// one process.
package testcluster

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	skiffclient "skiff/internal/client"
	"skiff/internal/cluster"
	"skiff/internal/identity"
)

// Cluster is a running API server without controllers, scheduler and nodes.
type Cluster struct {
	*cluster.ControlPlane
	// Config reaches it over HTTP as a member of system:masters.
	Config *rest.Config
	// Client is an in-process client with the same rights.
	Client client.WithWatch

	ctx  context.Context
	stop func() error
}

// Stop ends the control plane before the test does, and returns when it has
// ended. It may be called more than once.
func (c *Cluster) Stop() error { return c.stop() }

// Start runs a control plane until the test ends.
func Start(t testing.TB) *Cluster {
	t.Helper()
	return StartWith(t, cluster.ServerConfig{})
}

// StartWith runs a control plane as c says; the addresses and the data
// directory are the test's.
func StartWith(t testing.TB, c cluster.ServerConfig) *Cluster {
	t.Helper()
	loopback := netip.MustParseAddr("127.0.0.1")
	c.BindAddress, c.AdvertiseAddress = loopback, loopback
	c.Node.IP, c.Node.Name = loopback, "test"
	if c.DataDir == "" {
		c.DataDir = t.TempDir()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(writer{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := cluster.OpenControlPlane(ctx, c)
	if err != nil {
		cancel()
		t.Fatalf("starting the API server: %v", err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- p.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		if err := <-stopped; !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("the API server stopped: %v", err)
		}
	})
	cert, key, err := p.PKI.Admin.PEM()
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{
		ControlPlane: p, ctx: ctx, stop: stop,
		Client: p.Clients.Set(ctx, identity.Loopback()).Client,
		Config: &rest.Config{
			Host: p.URL(), QPS: -1,
			TLSClientConfig: rest.TLSClientConfig{CAData: p.PKI.CA.PEM, CertData: cert, KeyData: key},
		},
	}
}

// Set returns the in-process view of the cluster of a user.
func (c *Cluster) Set(user *identity.User) skiffclient.Set {
	return c.Clients.Set(c.ctx, user)
}

// writer sends log lines to the test's log, as long as it runs.
type writer struct{ t testing.TB }

func (w writer) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}
