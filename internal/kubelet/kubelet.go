// Package kubelet runs the pods of one node. It follows the pods bound to the
// node in the API server, brings containers about through a CRI runtime, and
// reports back.
//
// The way of a change: an event (from the API, the runtime, a probe, a timer)
// marks a pod dirty; the pod's worker, a goroutine that exists only while there
// is something to do, reads the runtime's state, asks package plan for the next
// steps, does them, and hands the resulting status to package status. All
// state that must survive a restart of the kubelet is the runtime's; the
// kubelet stopping leaves containers as they are.
package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"skiff/internal/client"
	"skiff/internal/identity"
	"skiff/internal/kubelet/admit"
	"skiff/internal/kubelet/cgroups"
	"skiff/internal/kubelet/csi"
	"skiff/internal/kubelet/dra"
	"skiff/internal/kubelet/eviction"
	"skiff/internal/kubelet/handlers"
	"skiff/internal/kubelet/images"
	"skiff/internal/kubelet/node"
	"skiff/internal/kubelet/plugins"
	"skiff/internal/kubelet/podspec"
	"skiff/internal/kubelet/probes"
	"skiff/internal/kubelet/references"
	"skiff/internal/kubelet/runtime"
	"skiff/internal/kubelet/server"
	"skiff/internal/kubelet/status"
	"skiff/internal/kubelet/timers"
	"skiff/internal/kubelet/trustbundles"
	"skiff/internal/kubelet/volumes"
)

// Config says what a kubelet is to do. Fields without a default must be set.
type Config struct {
	NodeName string
	// NodeIPs are the node's addresses, the primary one first, at most one of
	// each family.
	NodeIPs []netip.Addr
	// Labels and Taints are set on the node when it registers; labels also
	// when it is there already.
	Labels map[string]string
	Taints []v1.Taint
	// RootDir holds pods' volumes (default /var/lib/kubelet), PodLogsDir their
	// logs (default /var/log/pods).
	RootDir    string
	PodLogsDir string
	// LocalVolumesDir holds the volumes that the cluster keeps on this node
	// (default <RootDir>/local-volumes).
	LocalVolumesDir string
	// RuntimeEndpoint is the path of the CRI runtime's socket; "unix://" may
	// stand before it.
	RuntimeEndpoint string
	// CgroupRoot is the cgroup below which kubepods is made (default /);
	// CgroupMount is where cgroup file systems are (default /sys/fs/cgroup).
	CgroupRoot  string
	CgroupMount string
	// ClusterDNS and ClusterDomain are what pods resolve with; ResolvConf is
	// the node's own (default /etc/resolv.conf).
	ClusterDNS    []string
	ClusterDomain string
	ResolvConf    string
	// StaticPodDir, when set, holds manifests of pods that the node runs on its
	// own account.
	StaticPodDir string
	// AllowedUnsafeSysctls are kernel parameters, or prefixes with * at the end,
	// that pods may set besides the safe ones.
	AllowedUnsafeSysctls []string
	// TrustBundles lets pods mount ClusterTrustBundles.
	TrustBundles bool
	// MaxPods defaults to 110.
	MaxPods int
	// EvictionThresholds are what must stay available of the node's memory and
	// disk; pods are evicted otherwise.
	EvictionThresholds []eviction.Threshold
	// ImageHighPercent is how full the images' file system may be before unused
	// images are removed, ImageLowPercent how full it is afterwards (default 85
	// and 80); of 100, none are.
	ImageHighPercent, ImageLowPercent int
	// Address and Port are what the node's API listens on; Port defaults to
	// 10250, and Address to all.
	Address netip.Addr
	Port    int
	// ServingCert returns the certificate of the node's API. ClientCA proves its
	// clients, or Authenticate says whose their bearer token is (nil: nobody's).
	// Authorize says what they may do: an error is the refusal. The verb and
	// path are those of the request.
	ServingCert  func() (*tls.Certificate, error)
	ClientCA     *x509.CertPool
	Authenticate func(ctx context.Context, token string) (*identity.User, error)
	Authorize    func(ctx context.Context, user *identity.User, verb, path string) error
	ProviderID   string
	// Version is the node's kubelet version, for example v1.36.0.
	Version string
	Client  client.Set
	Log     *slog.Logger
	// Clock defaults to the real one.
	Clock clock.WithTicker
}

func (c *Config) defaults() error {
	if c.RootDir == "" {
		c.RootDir = "/var/lib/kubelet"
	}
	if c.PodLogsDir == "" {
		c.PodLogsDir = "/var/log/pods"
	}
	if c.LocalVolumesDir == "" {
		c.LocalVolumesDir = filepath.Join(c.RootDir, "local-volumes")
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = "/"
	}
	if c.CgroupMount == "" {
		c.CgroupMount = cgroups.DefaultMount
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.ImageHighPercent == 0 {
		c.ImageHighPercent = images.DefaultHighPercent
	}
	if c.ImageLowPercent == 0 {
		c.ImageLowPercent = min(images.DefaultLowPercent, c.ImageHighPercent)
	}
	if c.Port == 0 {
		c.Port = 10250
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	need := func(ok bool, field string) {
		if !ok {
			errs = append(errs, fmt.Errorf("kubelet configuration: %s must be set", field))
		}
	}
	if low, high := c.ImageLowPercent, c.ImageHighPercent; low < 0 || low > high || high > 100 {
		errs = append(errs, fmt.Errorf("kubelet configuration: unused images are removed from %d%% down to %d%%; write two percentages, the lower one second", high, low))
	}
	need(c.NodeName != "", "NodeName")
	need(len(c.NodeIPs) > 0, "NodeIPs")
	need(c.RuntimeEndpoint != "", "RuntimeEndpoint")
	need(c.ServingCert != nil, "ServingCert")
	need(c.ClientCA != nil, "ClientCA")
	need(c.Authenticate != nil, "Authenticate")
	need(c.Authorize != nil, "Authorize")
	need(c.Client.Client != nil && c.Client.Cache != nil && c.Client.Recorder != nil, "Client")
	return errors.Join(errs...)
}

// Kubelet is a node's agent.
type Kubelet struct {
	Config
	log       *slog.Logger
	recorder  record.EventRecorder
	runtime   *runtime.Client
	inspector *runtime.Inspector
	machine   *node.Machine
	cgroups   *cgroups.Manager
	sysctls   *admit.Sysctls
	cluster   podspec.Cluster

	// Made by Run, since they live as long as its context.
	ctx        context.Context
	runner     *handlers.Runner
	images     *images.Manager
	probes     *probes.Manager
	volumes    *volumes.Manager
	csi        *csi.Drivers
	dra        *dra.Drivers
	references *references.Store
	// trustBundles are those that pods mount.
	trustBundles *trustbundles.Store
	writer       *status.Writer
	node         *node.Manager
	eviction     *eviction.Manager
	collector    *images.Collector
	wakes        *timers.Queue[string]
	state        runtimeState
	workers      sync.WaitGroup
	registered   chan struct{}
	static       staticPods

	// admitting is held from looking at what the pods hold to granting more.
	admitting sync.Mutex

	mu   sync.Mutex
	pods map[string]*worker
	// synced is true when all pods of the node were seen once, so that one the
	// runtime has and we do not know is an orphan.
	synced bool
	// imageDirectory is on the images' file system, empty until the runtime has
	// told where that is.
	imageDirectory string
}

// New checks the configuration and the machine; Run does the work. Pods that
// run already are taken up by Run.
func New(c Config) (*Kubelet, error) {
	if err := c.defaults(); err != nil {
		return nil, err
	}
	// Drivers that run in pods expect the plug-ins' directories to be there.
	for _, dir := range []string{
		filepath.Join(c.RootDir, "pods"), filepath.Join(c.RootDir, "plugins"), filepath.Join(c.RootDir, "plugins_registry"), c.PodLogsDir,
	} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("making the kubelet's directories: %w", err)
		}
	}
	machine, err := node.InspectMachine(c.RootDir)
	if err != nil {
		return nil, fmt.Errorf("inspecting the machine: %w", err)
	}
	groups, err := cgroups.New(c.CgroupMount, c.CgroupRoot)
	if err != nil {
		return nil, err
	}
	sysctls, err := admit.AllowSysctls(c.AllowedUnsafeSysctls)
	if err != nil {
		return nil, err
	}
	connection, err := runtime.Dial(c.RuntimeEndpoint)
	if err != nil {
		return nil, err
	}
	k := &Kubelet{
		Config: c, log: c.Log, machine: machine, cgroups: groups, sysctls: sysctls,
		recorder: c.Client.Recorder("kubelet"),
		runtime:  connection, inspector: runtime.NewInspector(connection),
		cluster:    podspec.Cluster{DNS: c.ClusterDNS, Domain: c.ClusterDomain, Host: hostResolver(c.ResolvConf)},
		pods:       map[string]*worker{},
		registered: make(chan struct{}),
		static:     newStaticPods(),
	}
	return k, nil
}

// hostResolver reads the node's resolver configuration; a node without one
// has none to hand on.
func hostResolver(path string) *cri.DNSConfig {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	out, err := podspec.ParseResolvConf(f)
	if err != nil {
		return nil
	}
	return out
}

// Run runs the node until ctx ends or the node's API cannot be served.
// Containers keep running afterwards.
func (k *Kubelet) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer k.runtime.Close()
	k.build(ctx)
	capacity := k.facts(ctx)
	if err := k.cgroups.Prepare(capacity.Capacity()); err != nil {
		return err
	}

	api := server.New(server.Config{
		Address: k.Address, Port: k.Port, ServingCert: k.ServingCert, ClientCA: k.ClientCA,
		Authenticate: k.Authenticate, Authorize: k.Authorize,
		Runtime: k.runtime, Pods: k, Directories: volumes.Directories{Root: k.LocalVolumesDir}, NodeName: k.NodeName, RootDir: k.RootDir, Log: k.log,
	})
	var parts sync.WaitGroup
	start := func(run func(context.Context)) {
		parts.Add(1)
		go func() {
			defer parts.Done()
			run(ctx)
		}()
	}
	start(k.wakes.Run)
	start(k.probes.Run)
	start(k.writer.Run)
	start(k.followRuntime)
	start(func(ctx context.Context) { k.node.Run(ctx, func() { close(k.registered) }) })
	start(k.rotateLogs)
	start(k.eviction.Run)
	start(k.collector.Run)
	start(k.followPlugins)
	failed := make(chan error, 3)
	start(func(ctx context.Context) { failed <- api.Run(ctx) })
	start(func(ctx context.Context) {
		if err := k.followPods(ctx); err != nil {
			failed <- err
		}
	})
	start(func(ctx context.Context) {
		if err := k.followManifests(ctx); err != nil {
			failed <- err
		}
	})
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	cancel()
	parts.Wait()
	k.workers.Wait()
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("running the kubelet of node %s: %w", k.NodeName, err)
	}
	return nil
}

// followPlugins takes in the node's plug-ins, once there is a node for them.
func (k *Kubelet) followPlugins(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-k.registered:
	}
	w := &plugins.Watcher{
		Dir: filepath.Join(k.RootDir, "plugins_registry"), Clock: k.Clock, Log: k.log,
		Handlers: map[string]plugins.Handler{csi.PluginType: k.csi, dra.PluginType: k.dra},
	}
	if err := w.Run(ctx); err != nil {
		k.log.Error("plug-ins are not followed", "err", err)
	}
}

// driverChanged looks at everything again that may have waited for a driver.
func (k *Kubelet) driverChanged() {
	k.kickAll()
	k.adoptOrphans(k.ctx)
}

func (k *Kubelet) build(ctx context.Context) {
	k.ctx = ctx
	k.runner = &handlers.Runner{Runtime: k.runtime, UserAgent: "kube-probe/" + minor(k.Version)}
	k.images = images.New(k.runtime, k.recorder, k.Clock)
	k.probes = probes.New(ctx, k.runner, k.recorder, k.Clock, k.log, k.kick)
	k.references = references.New(ctx, k.Client.Client, k.Clock, k.log, k.contentChanged)
	k.trustBundles = trustbundles.New(k.Client.Cache, k.bundlesChanged)
	k.writer = status.NewWriter(k.Client.Client, k.Clock, k.log)
	k.wakes = timers.New(k.Clock, k.kick)
	k.csi = &csi.Drivers{
		NodeName: k.NodeName, Root: k.RootDir, Client: k.Client.Client, Log: k.log, Secret: live{k.Client.Client}.Secret, Tokens: k.requestToken,
		Changed: k.driverChanged, InUseChanged: func() { k.node.Kick() },
	}
	k.dra = &dra.Drivers{
		NodeName: k.NodeName, File: filepath.Join(k.RootDir, "dra_claims.json"), Client: k.Client.Client, Clock: k.Clock, Log: k.log, Changed: k.driverChanged,
	}
	k.volumes = (&volumes.Manager{
		Root: k.RootDir, Objects: objects{k}, CSI: k.csi, Tokens: k.requestToken, Place: k.place, Clock: k.Clock, Log: k.log,
	}).Init()
	k.node = (&node.Manager{
		Name: k.NodeName, Labels: k.Labels, Taints: k.Taints, ProviderID: k.ProviderID,
		Client: k.Client.Client, Clock: k.Clock, Log: k.log, Facts: k.facts,
	}).Init()
	k.eviction = &eviction.Manager{
		Thresholds: k.EvictionThresholds, Node: scarce{k}, Reference: k.nodeReference(), Recorder: k.recorder,
		Clock: k.Clock, Log: k.log, Changed: k.node.Kick,
	}
	k.collector = &images.Collector{
		Images: k.runtime, InUse: k.imagesInUse, Space: k.imageSpace, HighPercent: k.ImageHighPercent, LowPercent: k.ImageLowPercent,
		Reference: k.nodeReference(), Recorder: k.recorder, Clock: k.Clock, Log: k.log,
	}
	k.state.changed = func() {
		k.node.Kick()
		k.kickAll()
	}
}
