package cli

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"skiff/internal/apiserver/features"
	"skiff/internal/cluster"
	"skiff/internal/cluster/server"
)

func newServer() *cobra.Command {
	var (
		c    cluster.ServerConfig
		node nodeFlags
	)
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a control plane, and a node in the same process",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := node.logger(cmd)
			if err != nil {
				return err
			}
			c.Log, c.Node = log, node.config
			c.Node.TrustBundles = c.API.FeatureGates.Enabled(features.ClusterTrustBundleProjection)
			c.DataDir = node.config.DataDir
			c.Ready = serviceManager(log)
			return server.Run(cmd.Context(), c)
		},
	}
	node.add(cmd)
	addAPIFlags(cmd, &c.API)
	f := cmd.Flags()
	f.Var(&addrFlag{&c.BindAddress}, "bind-address", "address that the API server listens on (default: all)")
	f.Var(&addrFlag{&c.AdvertiseAddress}, "advertise-address", "address at which pods and other machines reach the API server (default: the node's)")
	f.IntVar(&c.Port, "port", 6443, "port of the API server")
	f.StringSliceVar(&c.TLSNames, "tls-name", nil, "further name or address in the API server's certificate (can be repeated)")
	f.Var(&prefixFlag{&c.ClusterCIDR}, "cluster-cidr", "range of the pods' addresses (default 10.244.0.0/16)")
	f.Var(&prefixFlag{&c.ServiceCIDR}, "service-cidr", "range of the Services' addresses (default 10.96.0.0/16)")
	f.StringSliceVar(&c.Datastore.Endpoints, "datastore-endpoint", nil, "URL of a member of an outside etcd, instead of the embedded store (can be repeated)")
	f.StringVar(&c.Datastore.CAFile, "datastore-cafile", "", "certificate of the authority of the outside etcd")
	f.StringVar(&c.Datastore.CertFile, "datastore-certfile", "", "certificate that proves this server to the outside etcd")
	f.StringVar(&c.Datastore.KeyFile, "datastore-keyfile", "", "key of that certificate")
	f.BoolVar(&c.DisableCloud, "disable-cloud-controller", false, "leave load balancers to another cloud controller")
	f.BoolVar(&c.DisableNode, "disable-node", false, "run the control plane alone")
	f.StringVar(&c.SchedulerConfig, "scheduler-config", "", "file with a KubeSchedulerConfiguration (default: one profile with upstream's default plugins)")
	f.StringVar(&c.KubeconfigPath, "write-kubeconfig", "", "where the administrator's kubeconfig is written (default <data-dir>/admin.kubeconfig)")
	return cmd
}

// serviceManager returns a function that tells the service manager, if the
// process has one, that the service is ready, as sd_notify(3) says. The
// environment is read and cleaned at once, so that no child speaks for us.
func serviceManager(log *slog.Logger) func() {
	path := os.Getenv("NOTIFY_SOCKET")
	os.Unsetenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	return func() {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
		if err == nil {
			_, err = conn.Write([]byte("READY=1"))
			conn.Close()
		}
		if err != nil {
			log.Debug("the service manager does not listen", "socket", path, "err", err)
		}
	}
}

// addrFlag is a flag that holds an IP address.
type addrFlag struct{ addr *netip.Addr }

func (f *addrFlag) Type() string { return "address" }

func (f *addrFlag) String() string {
	if f.addr == nil || !f.addr.IsValid() {
		return ""
	}
	return f.addr.String()
}

func (f *addrFlag) Set(text string) (err error) {
	if *f.addr, err = netip.ParseAddr(text); err != nil {
		return fmt.Errorf("%q is not an IP address", text)
	}
	return nil
}

// prefixFlag is a flag that holds a range of IP addresses.
type prefixFlag struct{ prefix *netip.Prefix }

func (f *prefixFlag) Type() string { return "range" }

func (f *prefixFlag) String() string {
	if f.prefix == nil || !f.prefix.IsValid() {
		return ""
	}
	return f.prefix.String()
}

func (f *prefixFlag) Set(text string) (err error) {
	if *f.prefix, err = netip.ParsePrefix(text); err != nil {
		return fmt.Errorf("%q is not a range of addresses; it must look like 10.244.0.0/16", text)
	}
	return nil
}
