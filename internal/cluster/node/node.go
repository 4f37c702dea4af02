// Package node runs a node's parts on this machine: container runtime, pod
// network, service proxy, DNS and kubelet. A server's own node and an agent
// differ only in how they reach the cluster.
package node

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"skiff/internal/client"
	"skiff/internal/cluster"
	"skiff/internal/containerd"
	"skiff/internal/dns"
	"skiff/internal/images"
	"skiff/internal/kubelet"
	"skiff/internal/kubelet/eviction"
	"skiff/internal/network"
	"skiff/internal/network/cni"
	"skiff/internal/proxy"
)

// Version is what nodes report as their kubelet's.
const Version = "v1.36.3"

// dnsPort is where the node's DNS server listens on the pod bridge.
const dnsPort = 53

// Config is what a node needs beside the machine.
type Config struct {
	cluster.NodeConfig
	ClusterCIDR, ServiceCIDR netip.Prefix
	// Node acts as the node itself, Network as its proxy and DNS server.
	Node, Network client.Set
	ServingCert   func() (*tls.Certificate, error)
	ClientCA      *x509.CertPool
	Log           *slog.Logger
}

// Run runs the node until ctx ends or one of its parts fails. Containers go on
// running when it returns.
func Run(ctx context.Context, c Config) error {
	taints, err := parseTaints(c.Taints)
	if err != nil {
		return err
	}
	thresholds, err := eviction.ParseThresholds(cmp.Or(c.EvictionHard, eviction.DefaultThresholds))
	if err != nil {
		return err
	}
	g := newGroup(ctx)
	endpoint := c.RuntimeEndpoint
	runtimeReady := make(chan struct{})
	if endpoint == "" {
		conf, err := containerd.Config{
			DataDir: c.DataDir, CNIConfDir: c.CNIConfDir, Links: []string{cni.Name, cni.Loopback}, Log: c.Log,
		}.Defaults()
		if err != nil {
			return err
		}
		endpoint = conf.Endpoint()
		var once sync.Once
		conf.Ready = func() {
			if err := ensurePause(g.ctx, conf.Socket()); err != nil {
				c.Log.Error("the sandbox image could not be imported", "error", err)
				return
			}
			once.Do(func() { close(runtimeReady) })
		}
		g.run("container runtime", func(ctx context.Context) error { return containerd.Supervise(ctx, conf) })
	} else {
		close(runtimeReady)
	}

	g.run("kubelet", func(ctx context.Context) error {
		select {
		case <-runtimeReady:
		case <-ctx.Done():
			return ctx.Err()
		}
		k, err := kubelet.New(kubelet.Config{
			NodeName: c.Name, NodeIPs: []netip.Addr{c.IP}, Labels: c.Labels, Taints: taints,
			RootDir: c.KubeletDir, PodLogsDir: c.PodLogsDir, LocalVolumesDir: filepath.Join(c.DataDir, "storage"), RuntimeEndpoint: endpoint, CgroupRoot: c.CgroupRoot,
			ClusterDNS: []string{c.ClusterDNS.String()}, ClusterDomain: c.ClusterDomain, ResolvConf: c.ResolvConf,
			EvictionThresholds: thresholds, ImageHighPercent: c.ImageGCHighThreshold, ImageLowPercent: c.ImageGCLowThreshold,
			StaticPodDir: c.StaticPodDir, AllowedUnsafeSysctls: c.AllowedUnsafeSysctls, TrustBundles: c.TrustBundles, ServingCert: c.ServingCert, ClientCA: c.ClientCA,
			Authenticate: kubelet.AuthenticateByReview(c.Node.Client), Authorize: kubelet.AuthorizeByReview(c.Node.Client, c.Name),
			Version: Version, Client: c.Node, Log: c.Log.With("part", "kubelet"), Clock: clock.RealClock{},
		})
		if err != nil {
			return err
		}
		return k.Run(ctx)
	})
	g.run("service proxy", proxy.New(proxy.Config{
		NodeName: c.Name, NodeIPs: []netip.Addr{c.IP}, ClusterCIDRs: []netip.Prefix{c.ClusterCIDR},
		Client: c.Network, Log: c.Log.With("part", "proxy"),
	}).Run)
	var gateways func() []netip.Addr
	if c.NetworkBackend != "none" {
		m, err := network.New(network.Config{
			NodeName: c.Name, NodeIPs: []netip.Addr{c.IP}, ClusterCIDRs: []netip.Prefix{c.ClusterCIDR},
			ServiceCIDRs: []netip.Prefix{c.ServiceCIDR}, Backend: c.NetworkBackend, CNIConfDir: c.CNIConfDir,
			DataDir: filepath.Join(c.DataDir, "network"), Client: c.Network, Log: c.Log.With("part", "network"),
		})
		if err != nil {
			g.cancel(err)
			return errors.Join(err, g.wait())
		}
		g.run("pod network", m.Run)
		gateways = func() []netip.Addr {
			select {
			case <-m.Ready():
				return m.Gateways()
			case <-g.ctx.Done():
				return nil
			}
		}
	} else {
		gateways = func() []netip.Addr { return []netip.Addr{c.IP} }
	}
	g.run("DNS", func(ctx context.Context) error {
		var listen []netip.AddrPort
		for _, ip := range gateways() {
			listen = append(listen, netip.AddrPortFrom(ip, dnsPort))
		}
		if len(listen) == 0 {
			return ctx.Err()
		}
		return dns.New(dns.Config{
			NodeName: c.Name, Listen: listen, Domain: c.ClusterDomain, ResolvConf: c.ResolvConf,
			Client: c.Network, Log: c.Log.With("part", "dns"),
		}).Run(ctx)
	})
	return g.wait()
}

func ensurePause(ctx context.Context, socket string) error {
	store, err := images.Open(socket)
	if err != nil {
		return err
	}
	defer store.Close()
	return store.EnsurePause(ctx, containerd.PauseImage)
}

// parseTaints reads key[=value]:effect.
func parseTaints(texts []string) ([]corev1.Taint, error) {
	var out []corev1.Taint
	for _, text := range texts {
		rest, effect, ok := strings.Cut(text, ":")
		key, value, _ := strings.Cut(rest, "=")
		switch e := corev1.TaintEffect(effect); {
		case !ok || key == "":
			return nil, fmt.Errorf("taint %q: it must look like key=value:NoSchedule", text)
		case e != corev1.TaintEffectNoSchedule && e != corev1.TaintEffectPreferNoSchedule && e != corev1.TaintEffectNoExecute:
			return nil, fmt.Errorf("taint %q: the effect must be NoSchedule, PreferNoSchedule or NoExecute", text)
		default:
			out = append(out, corev1.Taint{Key: key, Value: value, Effect: e})
		}
	}
	return out, nil
}

// group runs parts side by side; the first that fails ends them all.
type group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

func newGroup(ctx context.Context) *group {
	g := &group{}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g
}

func (g *group) run(name string, f func(context.Context) error) {
	g.wg.Go(func() {
		if err := f(g.ctx); err != nil && g.ctx.Err() == nil {
			g.cancel(fmt.Errorf("%s: %w", name, err))
		}
	})
}

func (g *group) wait() error {
	g.wg.Wait()
	return context.Cause(g.ctx)
}
