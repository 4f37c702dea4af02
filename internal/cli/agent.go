package cli

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"skiff/internal/apiserver/features"
	"skiff/internal/cluster"
	"skiff/internal/cluster/agent"
	"skiff/internal/kubelet/eviction"
	"skiff/internal/kubelet/images"
)

func newAgent() *cobra.Command {
	var (
		c     cluster.AgentConfig
		node  nodeFlags
		gates features.Set
	)
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a node that joins a server",
		Long: `Run a node that joins a server.

The first start needs a bootstrap token and a way to know the right server: its
certificate authority's certificate or the hash of it. "skiff token create" on
the server prints the whole command line. Later starts use the certificate that
the node got then.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := node.logger(cmd)
			if err != nil {
				return err
			}
			c.Log, c.Node = log, node.config
			c.Node.TrustBundles = gates.Enabled(features.ClusterTrustBundleProjection)
			c.Ready = serviceManager(log)
			return agent.Run(cmd.Context(), c)
		},
	}
	node.add(cmd)
	f := cmd.Flags()
	f.StringVar(&c.Server, "server", "", "the server's URL, https://host:port")
	f.StringVar(&c.Token, "token", "", "bootstrap token")
	f.StringVar(&c.CAFile, "ca-file", "", "certificate of the cluster's authority")
	f.StringVar(&c.CAHash, "ca-hash", "", "hash of the authority's public key, sha256:<hex>")
	f.Var(&prefixFlag{&c.ClusterCIDR}, "cluster-cidr", "range of the pods' addresses (default 10.244.0.0/16)")
	f.Var(&prefixFlag{&c.ServiceCIDR}, "service-cidr", "range of the Services' addresses (default 10.96.0.0/16)")
	f.Var(&gatesFlag{&gates}, "feature-gates", "optional features that are turned on or off, as on the server: NAME=true or NAME=false (can be repeated)")
	cmd.MarkFlagRequired("server")
	return cmd
}

// nodeFlags are the flags that server and agent have in common.
type nodeFlags struct {
	config   cluster.NodeConfig
	logLevel string
}

func (n *nodeFlags) add(cmd *cobra.Command) {
	f, c := cmd.Flags(), &n.config
	f.StringVar(&c.Name, "node-name", "", "name of the node (default: the host name)")
	f.Var(&addrFlag{&c.IP}, "node-ip", "address of the node (default: that of the default route's interface)")
	f.StringToStringVar(&c.Labels, "node-label", nil, "label of the node, key=value (can be repeated)")
	f.StringSliceVar(&c.Taints, "node-taint", nil, "taint of the node, key=value:effect (can be repeated)")
	f.StringVar(&c.DataDir, "data-dir", "/var/lib/skiff", "directory of everything that must survive")
	f.StringVar(&c.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "directory of the pods' volumes")
	f.StringVar(&c.PodLogsDir, "pod-logs-dir", "/var/log/pods", "directory of the containers' logs")
	f.StringVar(&c.RuntimeEndpoint, "container-runtime-endpoint", "", "socket of another CRI runtime (default: containerd of this program)")
	f.StringVar(&c.CgroupRoot, "cgroup-root", "/", "cgroup below which pods get theirs")
	f.StringVar(&c.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "directory of the network's configuration")
	f.StringVar(&c.NetworkBackend, "network-backend", "auto", "how nodes reach each other's pods: auto, host-gw, vxlan, or none for another CNI")
	f.Var(&addrFlag{&c.ClusterDNS}, "cluster-dns", "address of the DNS Service (default: the tenth of the Services)")
	f.StringVar(&c.ClusterDomain, "cluster-domain", "cluster.local", "zone of the cluster's names")
	f.StringVar(&c.ResolvConf, "resolv-conf", "/etc/resolv.conf", "file with the name servers of all other names")
	f.StringVar(&c.StaticPodDir, "static-pod-dir", "", "directory of manifests of static pods")
	f.StringSliceVar(&c.AllowedUnsafeSysctls, "allowed-unsafe-sysctls", nil, "kernel parameters that pods may set besides the safe ones; a * at the end stands for any end (can be repeated)")
	f.StringVar(&c.EvictionHard, "eviction-hard", "", "how little may be left before pods are evicted, signal<value,... (default "+eviction.DefaultThresholds+")")
	f.IntVar(&c.ImageGCHighThreshold, "image-gc-high-threshold", images.DefaultHighPercent, "how full the images' file system may be before unused ones are removed, in percent; 100 is no limit")
	f.IntVar(&c.ImageGCLowThreshold, "image-gc-low-threshold", images.DefaultLowPercent, "how full it is afterwards, in percent")
	f.StringVar(&n.logLevel, "log-level", "info", "debug, info, warn or error")
}

func (n *nodeFlags) logger(cmd *cobra.Command) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(n.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level is %q; it must be debug, info, warn or error", n.logLevel)
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	adoptLibraryLogs(log)
	return log, nil
}
