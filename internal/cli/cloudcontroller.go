package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/utils/clock"

	"skiff/internal/apis/builtin"
	"skiff/internal/client"
	"skiff/internal/client/remote"
	"skiff/internal/cloud/local"
	"skiff/internal/cloud/manager"
)

// newProvider makes a cloud provider; config is the content of --cloud-config,
// nil without one. To link another provider in, add it here.
func newProvider(name string, cluster client.Set, server *url.URL, config io.Reader) (cloudprovider.Interface, error) {
	switch name {
	case local.Name:
		if config != nil {
			return nil, errors.New("the provider local has nothing to configure: leave --cloud-config out")
		}
		return local.Provider{Balancer: &local.Balancer{Reader: cluster.Cache, Reserved: reserved(server)}}, nil
	}
	return nil, fmt.Errorf("--provider is %q; this program has only: %s", name, local.Name)
}

// reserved are the ports that nodes need for themselves.
func reserved(server *url.URL) map[local.Port]string {
	ports := map[local.Port]string{{Protocol: corev1.ProtocolTCP, Number: 10250}: "the kubelet"}
	if n, err := strconv.ParseInt(server.Port(), 10, 32); err == nil {
		ports[local.Port{Protocol: corev1.ProtocolTCP, Number: int32(n)}] = "the API server"
	}
	return ports
}

type cloudController struct {
	// newProvider makes the provider.
	newProvider func(name string, cluster client.Set, server *url.URL, config io.Reader) (cloudprovider.Interface, error)

	kubeconfig, provider, cloudConfig, clusterName string
	clusterCIDR                                    netip.Prefix
	noRoutes, leaderElect                          bool
	node                                           nodeFlags
}

func newCloudController() *cobra.Command {
	c := cloudController{newProvider: newProvider}
	cmd := &cobra.Command{
		Use:   "cloud-controller",
		Short: "Run the controllers of a cloud provider by themselves",
		Long: `Run the controllers of a cloud provider by themselves, against any cluster:
load balancers of Services, and, where the provider has them, instances of nodes
and routes between them. Servers run those of the provider "local" already unless
they were started with --disable-cloud-controller.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := c.node.logger(cmd)
			if err != nil {
				return err
			}
			return c.run(cmd.Context(), log)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "kubeconfig of the cluster (default: $KUBECONFIG, or the ServiceAccount of the pod)")
	f.StringVar(&c.provider, "provider", local.Name, "cloud provider")
	f.StringVar(&c.cloudConfig, "cloud-config", "", "file that the provider is configured by")
	f.StringVar(&c.clusterName, "cluster-name", "kubernetes", "name that tells this cluster's things in the cloud from others'")
	f.Var(&prefixFlag{&c.clusterCIDR}, "cluster-cidr", "range of the pods' addresses, for routes")
	f.BoolVar(&c.noRoutes, "disable-routes", false, "leave routes between nodes to others")
	f.BoolVar(&c.leaderElect, "leader-elect", true, "work only while no other does")
	f.StringVar(&c.node.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func (c *cloudController) run(ctx context.Context, log *slog.Logger) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return fmt.Errorf("the cluster cannot be reached (give a file with --kubeconfig): %w", err)
	}
	rest.AddUserAgent(config, "cloud-controller-manager")
	work := func(ctx context.Context) error {
		set, err := remote.Connect(ctx, config, builtin.NewScheme(), remote.Options{}, log)
		if err != nil {
			return err
		}
		server, err := url.Parse(config.Host)
		if err != nil {
			return err
		}
		provider, err := c.open(set, server)
		if err != nil {
			return err
		}
		m := manager.Config{
			Provider: provider, Set: func(string) client.Set { return set }, REST: config, ClusterName: c.clusterName,
			NoRoutes: c.noRoutes, Clock: clock.RealClock{}, Log: log,
		}
		if c.clusterCIDR.IsValid() {
			m.ClusterCIDRs = []netip.Prefix{c.clusterCIDR}
		}
		return manager.Run(ctx, m)
	}
	if !c.leaderElect {
		return work(ctx)
	}
	return lead(ctx, config, log, work)
}

func (c *cloudController) open(set client.Set, server *url.URL) (cloudprovider.Interface, error) {
	if c.cloudConfig == "" {
		return c.newProvider(c.provider, set, server, nil)
	}
	file, err := os.Open(c.cloudConfig)
	if err != nil {
		return nil, fmt.Errorf("--cloud-config: %w", err)
	}
	defer file.Close()
	return c.newProvider(c.provider, set, server, file)
}

// lead calls work while this process holds the lease of cloud controllers, and
// returns when it has lost it.
func lead(ctx context.Context, config *rest.Config, log *slog.Logger, work func(context.Context) error) error {
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	worked := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "cloud-controller-manager"},
			Client:    clients.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: host + "_" + uuid.NewString()},
		},
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				defer close(worked)
				cancel(work(ctx))
			},
			OnStoppedLeading: func() {},
			OnNewLeader:      func(who string) { log.Info("leader", "who", who) },
		},
	})
	if err != nil {
		return err
	}
	elector.Run(ctx)
	if elector.IsLeader() {
		<-worked
	}
	if ctx.Err() == nil {
		return errors.New("another cloud controller took over: the lease could not be renewed in time")
	}
	return context.Cause(ctx)
}
