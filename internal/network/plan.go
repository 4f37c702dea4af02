package network

import (
	"hash/fnv"
	"net"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// peer is what matters of a Node.
type peer struct {
	name  string
	cidrs []netip.Prefix
	ips   []netip.Addr
}

func peerOf(n *corev1.Node) peer {
	p := peer{name: n.Name}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for _, c := range cidrs {
		if prefix, err := netip.ParsePrefix(c); err == nil {
			p.cidrs = append(p.cidrs, prefix.Masked())
		}
	}
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			p.ips = append(p.ips, ip)
		}
	}
	return p
}

func (p peer) equal(o peer) bool {
	return p.name == o.name && slices.Equal(p.cidrs, o.cidrs) && slices.Equal(p.ips, o.ips)
}

// uplink is the interface that leads to the other nodes.
type uplink struct {
	index, mtu int
	// onLink are the ranges that it reaches without a router.
	onLink []netip.Prefix
}

// plan says how other nodes' pods are reached.
type plan struct {
	direct  []hop
	tunnels []tunnel
	// local is this node's end of the tunnels, if there may be any.
	local *tunnelEnd
	// unreachable are ranges that must not leave the node by a default route;
	// services are reached through the bridge.
	unreachable []netip.Prefix
	services    []netip.Prefix
	gateways    []netip.Addr
}

// hop is a plain route.
type hop struct {
	to  netip.Prefix
	via netip.Addr
}

// tunnel leads to one pod range of a node through VXLAN.
type tunnel struct {
	to   netip.Prefix
	node netip.Addr
	mac  net.HardwareAddr
}

// tunnelEnd is a node's own VXLAN device.
type tunnelEnd struct {
	ip    netip.Addr
	mac   net.HardwareAddr
	addrs []netip.Addr
}

// plan decides how each peer is reached.
func (m *Manager) plan(self peer, peers []peer, up uplink) plan {
	p := plan{unreachable: m.ClusterCIDRs, services: m.ServiceCIDRs}
	for _, c := range self.cidrs {
		p.gateways = append(p.gateways, gateway(c))
	}
	slices.SortFunc(peers, func(a, b peer) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	for _, other := range peers {
		for _, c := range other.cidrs {
			if slices.ContainsFunc(self.cidrs, c.Overlaps) {
				// A stale Node must not take this node's own range away.
				continue
			}
			if via, ok := m.neighbour(other, c, up); ok {
				p.direct = append(p.direct, hop{c, via})
			} else if node, ok := sameFamily(other.ips, m.NodeIPs[0]); ok && m.Backend != BackendHostGW {
				p.tunnels = append(p.tunnels, tunnel{c, node, tunnelMAC(node)})
			}
		}
	}
	if m.Backend == BackendVXLAN || len(p.tunnels) > 0 {
		p.local = &tunnelEnd{ip: m.NodeIPs[0], mac: tunnelMAC(m.NodeIPs[0])}
		for _, c := range self.cidrs {
			p.local.addrs = append(p.local.addrs, c.Addr())
		}
	}
	return p
}

// neighbour returns the peer's address if packets for c can be handed to it
// directly.
func (m *Manager) neighbour(other peer, c netip.Prefix, up uplink) (netip.Addr, bool) {
	ip, ok := sameFamily(other.ips, c.Addr())
	if !ok || m.Backend == BackendVXLAN {
		return netip.Addr{}, false
	}
	return ip, slices.ContainsFunc(up.onLink, func(p netip.Prefix) bool { return p.Contains(ip) })
}

func sameFamily(ips []netip.Addr, as netip.Addr) (netip.Addr, bool) {
	for _, ip := range ips {
		if ip.Is4() == as.Is4() {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// mtu is what fits into a packet between pods. With BackendAuto plain routes
// are expected; should a tunnel be needed, the node that enters it tells the
// pod the smaller size (path MTU discovery).
func (m *Manager) mtu(up uplink) int {
	if m.Backend == BackendVXLAN {
		return up.mtu - tunnelOverhead(m.NodeIPs[0])
	}
	return up.mtu
}

// tunnelOverhead is the size of VXLAN, UDP, IP and inner Ethernet headers.
func tunnelOverhead(outer netip.Addr) int {
	if outer.Is4() {
		return 50
	}
	return 70
}

// gateway is the node's address in a pod range: the first.
func gateway(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// tunnelMAC derives the hardware address of a node's VXLAN device from the
// node's address, so that nodes need not tell each other.
func tunnelMAC(node netip.Addr) net.HardwareAddr {
	h := fnv.New32a()
	raw := node.AsSlice()
	if node.Is6() {
		_, _ = h.Write(raw)
		raw = h.Sum(nil)
	}
	return net.HardwareAddr{0x0a, 0x53, raw[0], raw[1], raw[2], raw[3]}
}
