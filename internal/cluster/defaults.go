package cluster

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

func orDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

func (c ServerConfig) withDefaults() ServerConfig {
	orDefault(&c.DataDir, "/var/lib/skiff")
	orDefault(&c.Node.DataDir, c.DataDir)
	c.Node = c.Node.withDefaults()
	orDefault(&c.BindAddress, netip.IPv4Unspecified())
	orDefault(&c.AdvertiseAddress, c.Node.IP)
	orDefault(&c.ClusterCIDR, defaultClusterCIDR())
	orDefault(&c.ServiceCIDR, defaultServiceCIDR())
	orDefault(&c.Node.ClusterDNS, dnsAddress(c.ServiceCIDR))
	orDefault(&c.KubeconfigPath, filepath.Join(c.DataDir, "admin.kubeconfig"))
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// WithDefaults returns c with its zero values replaced.
func (c AgentConfig) WithDefaults() AgentConfig {
	c.Node = c.Node.withDefaults()
	orDefault(&c.ClusterCIDR, defaultClusterCIDR())
	orDefault(&c.ServiceCIDR, defaultServiceCIDR())
	orDefault(&c.Node.ClusterDNS, dnsAddress(c.ServiceCIDR))
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func defaultClusterCIDR() netip.Prefix { return netip.MustParsePrefix("10.244.0.0/16") }
func defaultServiceCIDR() netip.Prefix { return netip.MustParsePrefix("10.96.0.0/16") }

// dnsAddress is the tenth address of the Service range.
func dnsAddress(services netip.Prefix) netip.Addr {
	dns := services.Masked().Addr()
	for range 10 {
		dns = dns.Next()
	}
	return dns
}

func (c NodeConfig) withDefaults() NodeConfig {
	if c.Name == "" {
		if host, err := os.Hostname(); err == nil {
			c.Name = strings.ToLower(host)
		}
	}
	if !c.IP.IsValid() {
		c.IP = defaultAddress()
	}
	orDefault(&c.DataDir, "/var/lib/skiff")
	orDefault(&c.KubeletDir, "/var/lib/kubelet")
	orDefault(&c.PodLogsDir, "/var/log/pods")
	orDefault(&c.CgroupRoot, "/")
	orDefault(&c.CNIConfDir, "/etc/cni/net.d")
	orDefault(&c.NetworkBackend, "auto")
	orDefault(&c.ClusterDomain, "cluster.local")
	orDefault(&c.ResolvConf, "/etc/resolv.conf")
	return c
}

// defaultAddress is this machine's address: that of the default route, else
// the first global one.
func defaultAddress() netip.Addr {
	// Connecting a UDP socket sends nothing; it only asks the routing table.
	if conn, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer conn.Close()
		if ip := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(); ip.IsGlobalUnicast() {
			return ip
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	return netip.MustParseAddr("127.0.0.1")
}
