// Package cluster puts the parts together. It holds the control plane and what
// servers and agents are configured with; the folders below run them: server
// (a control plane and, unless told otherwise, a node), agent (a node alone),
// node (what both have in common). What each part needs is handed to it here
// and nowhere else.
package cluster

import (
	"log/slog"
	"net/netip"
)

// ServerConfig says what server.Run makes. Zero values mean the defaults that
// stand at the fields.
type ServerConfig struct {
	// DataDir holds everything that must survive: the database, certificates.
	// Default /var/lib/skiff.
	DataDir string
	// BindAddress is what the API server listens on (default 0.0.0.0),
	// AdvertiseAddress how it is reached from pods and other machines (default:
	// Node.IP), Port its port (default 6443; in tests 0 picks a free one).
	BindAddress      netip.Addr
	AdvertiseAddress netip.Addr
	Port             int
	// TLSNames are further names and addresses in the serving certificate.
	TLSNames []string
	// ClusterCIDR is what nodes get their pod ranges from (default
	// 10.244.0.0/16, a /24 for each node), ServiceCIDR what Services get their
	// addresses from (default 10.96.0.0/16).
	ClusterCIDR netip.Prefix
	ServiceCIDR netip.Prefix
	// Datastore selects an outside etcd instead of the embedded engine. Several
	// servers may share it; one of them leads.
	Datastore DatastoreConfig
	// SchedulerConfig is the file with upstream's KubeSchedulerConfiguration;
	// empty means the default.
	SchedulerConfig string
	// DisableCloud leaves what the cloud controllers do to others.
	DisableCloud bool
	// DisableNode runs the control plane alone.
	DisableNode bool
	// API configures the API server beyond its addresses.
	API APIConfig
	// Node configures the node that runs in the same process.
	Node NodeConfig
	// KubeconfigPath is where the administrator's kubeconfig is written
	// (default <DataDir>/admin.kubeconfig).
	KubeconfigPath string
	Log            *slog.Logger
	// Ready, when set, is called once the API server answers /readyz with ok.
	Ready func()
}

// DatastoreConfig says where an outside etcd is. Without endpoints the server
// keeps its data itself.
type DatastoreConfig struct {
	// Endpoints are the members' client URLs.
	Endpoints []string
	// CAFile proves the members; CertFile and KeyFile prove this server to
	// them. They are for https endpoints, PEM.
	CAFile, CertFile, KeyFile string
}

// NodeConfig is what server and agent have in common: how this machine takes
// part as a node.
type NodeConfig struct {
	// Name defaults to the host name.
	Name string
	// IP is the node's address; default: the address of the default route's
	// interface, or the only global one.
	IP netip.Addr
	// Labels and Taints are set when the node registers.
	Labels map[string]string
	Taints []string
	// DataDir is where the runtime, kubelet credentials and the binary's
	// links live. Default /var/lib/skiff.
	DataDir string
	// KubeletDir is upstream's /var/lib/kubelet, PodLogsDir /var/log/pods.
	KubeletDir string
	PodLogsDir string
	// RuntimeEndpoint is the socket of an outside CRI; empty starts the
	// linked-in containerd.
	RuntimeEndpoint string
	// CgroupRoot is the cgroup below which pods get theirs (default /).
	CgroupRoot string
	// CNIConfDir is where the network's configuration is written (default
	// /etc/cni/net.d).
	CNIConfDir string
	// NetworkBackend is auto, host-gw, vxlan or none (an outside CNI).
	NetworkBackend string
	// ClusterDNS is the DNS service's address (default: the tenth of
	// ServiceCIDR), ClusterDomain its zone (default cluster.local).
	ClusterDNS    netip.Addr
	ClusterDomain string
	// ResolvConf is what DNS forwards other names to (default
	// /etc/resolv.conf).
	ResolvConf string
	// StaticPodDir, when set, is watched for manifests of static pods.
	StaticPodDir string
	// AllowedUnsafeSysctls are kernel parameters, or prefixes with * at the end,
	// that pods may set besides the safe ones.
	AllowedUnsafeSysctls []string
	// TrustBundles lets pods mount ClusterTrustBundles (the feature
	// ClusterTrustBundleProjection).
	TrustBundles bool
	// EvictionHard says how little of its memory and disk may be left before the
	// node evicts pods, as upstream's kubelet is told. Default: upstream's.
	EvictionHard string
	// ImageGCHighThreshold is how full, in percent, the images' file system may
	// be before unused images are removed, ImageGCLowThreshold how full it is
	// afterwards. Default 85 and 80; of 100, none are.
	ImageGCHighThreshold, ImageGCLowThreshold int
}

// AgentConfig says what agent.Run makes.
type AgentConfig struct {
	Node NodeConfig
	// Server is the API server's address, https://host:port.
	Server string
	// Token is a bootstrap token (id.secret) that the first start uses to ask
	// for the node's certificate.
	Token string
	// CAFile is the cluster's CA certificate; CAHash (sha256:<hex> of the CA's
	// public key) may be given instead.
	CAFile, CAHash string
	// ClusterCIDR and ServiceCIDR are as in ServerConfig.
	ClusterCIDR netip.Prefix
	ServiceCIDR netip.Prefix
	// Ready, if set, is called once the node has its credentials and starts to
	// work.
	Ready func()
	Log   *slog.Logger
}
