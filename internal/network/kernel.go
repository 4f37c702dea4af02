package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"skiff/internal/network/cni"
)

const (
	// routeProtocol marks the routes of this package, so that it finds those
	// that are not needed any more. The number is free in rt_protos.
	routeProtocol netlink.RouteProtocol = 83
	// tunnelID and tunnelPort are the VXLAN network identifier and UDP port;
	// the port is the kernel's own default.
	tunnelID   = 83
	tunnelPort = 8472
	// lastResort is a route metric behind any that someone else would choose.
	lastResort = 1 << 16
)

// kernel is a connection to the network namespace that a Manager works in.
type kernel struct {
	*netlink.Handle
	netns int
}

func (m *Manager) open() (*kernel, error) {
	var h *netlink.Handle
	var err error
	if m.NetNS != 0 {
		h, err = netlink.NewHandleAt(netns.NsHandle(m.NetNS), unix.NETLINK_ROUTE)
	} else {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return &kernel{Handle: h, netns: m.NetNS}, nil
}

func (m *Manager) tunnelName() string { return m.BridgeName + "-vx" }

// uplink finds the interface with the first of the node's addresses.
func (k *kernel) uplink(nodeIPs []netip.Addr) (uplink, error) {
	addrs, err := k.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return uplink{}, fmt.Errorf("list addresses: %w", err)
	}
	at := slices.IndexFunc(addrs, func(a netlink.Addr) bool { return prefixOf(a.IPNet).Addr() == nodeIPs[0] })
	if at < 0 {
		return uplink{}, fmt.Errorf("no network interface has the node's address %s: correct the address or add it to an interface", nodeIPs[0])
	}
	link, err := k.LinkByIndex(addrs[at].LinkIndex)
	if err != nil {
		return uplink{}, err
	}
	up := uplink{index: link.Attrs().Index, mtu: link.Attrs().MTU}
	for _, a := range addrs {
		if a.LinkIndex == up.index {
			up.onLink = append(up.onLink, prefixOf(a.IPNet).Masked())
		}
	}
	return up, nil
}

// bridge makes the node's bridge, with the gateway address of each pod range.
func (k *kernel) bridge(name string, mtu int, own []netip.Prefix) (netlink.Link, error) {
	link, err := k.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, mtu
		// A bridge without a fixed address takes over that of its lowest port,
		// which pods would have to learn anew.
		attrs.HardwareAddr = cni.HardwareAddr(gateway(own[0]))
		if err := k.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("make bridge %s: %w", name, err)
		}
		link, err = k.LinkByName(name)
	}
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("interface %s exists and is no bridge but a %s: remove it or choose another bridge name", name, link.Type())
	}
	if link.Attrs().MTU != mtu {
		if err := k.LinkSetMTU(link, mtu); err != nil {
			return nil, fmt.Errorf("MTU of bridge %s: %w", name, err)
		}
	}
	want := make([]netip.Prefix, len(own))
	for i, p := range own {
		want[i] = netip.PrefixFrom(gateway(p), p.Bits())
	}
	if err := k.addresses(link, want); err != nil {
		return nil, err
	}
	if err := k.sysctls(name, own); err != nil {
		return nil, err
	}
	if err := k.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("bridge %s: %w", name, err)
	}
	return link, nil
}

// addresses makes want the global addresses of link.
func (k *kernel) addresses(link netlink.Link, want []netip.Prefix) error {
	have, err := k.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range have {
		p := prefixOf(a.IPNet)
		if !slices.Contains(want, p) && !p.Addr().IsLinkLocalUnicast() {
			if err := k.AddrDel(link, &a); err != nil {
				return fmt.Errorf("remove address %s: %w", p, err)
			}
		}
	}
	for _, w := range want {
		if slices.ContainsFunc(have, func(a netlink.Addr) bool { return prefixOf(a.IPNet) == w }) {
			continue
		}
		a := &netlink.Addr{IPNet: ipNet(w)}
		if w.Addr().Is6() {
			// Nobody else can have it, so there is nothing to wait for.
			a.Flags = unix.IFA_F_NODAD
		}
		if err := k.AddrAdd(link, a); err != nil {
			return fmt.Errorf("address %s: %w", w, err)
		}
	}
	return nil
}

// sysctls lets the node route. Packets between pods turn around on the bridge;
// without the second group the kernel would tell pods to talk directly, past
// the Services' and policies' rules. route_localnet lets a host port at
// 127.0.0.1 work; the nftables table keeps pods from using it.
func (k *kernel) sysctls(bridge string, own []netip.Prefix) error {
	values := [][2]string{
		{"ipv4/ip_forward", "1"},
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/" + bridge + "/send_redirects", "0"},
		{"ipv4/conf/" + bridge + "/route_localnet", "1"},
	}
	if slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		// Nobody else can have the bridge's addresses, so nobody need be asked:
		// that would take the first pod a second.
		values = append(values, [2]string{"ipv6/conf/all/forwarding", "1"}, [2]string{"ipv6/conf/" + bridge + "/accept_dad", "0"})
	}
	return cni.InNamespace(k.netns, func() error {
		for _, v := range values {
			path := filepath.Join("/proc/sys/net", v[0])
			if have, err := os.ReadFile(path); err == nil && string(bytes.TrimSpace(have)) == v[1] {
				continue
			}
			if err := os.WriteFile(path, []byte(v[1]), 0); err != nil {
				return fmt.Errorf("kernel setting: %w", err)
			}
		}
		return nil
	})
}

// routes makes the routes and the tunnel those of the plan.
func (k *kernel) routes(p plan, up uplink, bridge netlink.Link, tunnelName string) error {
	var want []netlink.Route
	for _, h := range p.direct {
		want = append(want, netlink.Route{Dst: ipNet(h.to), Gw: h.via.AsSlice(), LinkIndex: up.index})
	}
	if p.local != nil {
		link, err := k.tunnel(tunnelName, p, up)
		if err != nil {
			return err
		}
		for _, t := range p.tunnels {
			want = append(want, netlink.Route{Dst: ipNet(t.to), Gw: t.to.Addr().AsSlice(), LinkIndex: link.Attrs().Index, Flags: int(netlink.FLAG_ONLINK)})
		}
	} else if link, err := k.LinkByName(tunnelName); err == nil {
		if err := k.LinkDel(link); err != nil {
			return fmt.Errorf("remove tunnel %s: %w", tunnelName, err)
		}
	}
	for _, c := range p.unreachable {
		want = append(want, netlink.Route{Dst: ipNet(c), Type: unix.RTN_UNREACHABLE, Priority: lastResort})
	}
	for _, c := range p.services {
		if src, ok := sameFamily(p.gateways, c.Addr()); ok {
			want = append(want, netlink.Route{Dst: ipNet(c), Src: src.AsSlice(), LinkIndex: bridge.Attrs().Index, Scope: netlink.SCOPE_LINK})
		}
	}
	return k.setRoutes(want)
}

func (k *kernel) setRoutes(want []netlink.Route) error {
	have, err := k.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	same := func(a, b netlink.Route) bool {
		return a.Dst.String() == b.Dst.String() && a.Gw.Equal(b.Gw) && max(a.Type, unix.RTN_UNICAST) == max(b.Type, unix.RTN_UNICAST) &&
			(a.LinkIndex == b.LinkIndex || a.Type == unix.RTN_UNREACHABLE)
	}
	// First what is new, so that a node which changes its way is never out of
	// reach.
	for _, w := range want {
		if slices.ContainsFunc(have, func(h netlink.Route) bool { return same(h, w) }) {
			continue
		}
		w.Protocol = routeProtocol
		if err := k.RouteReplace(&w); err != nil {
			return fmt.Errorf("route to %s: %w", w.Dst, err)
		}
	}
	for _, h := range have {
		// A replaced route is gone: what is left has another destination.
		if slices.ContainsFunc(want, func(w netlink.Route) bool {
			return w.Dst.String() == h.Dst.String() && max(w.Type, unix.RTN_UNICAST) == max(h.Type, unix.RTN_UNICAST)
		}) {
			continue
		}
		if err := k.RouteDel(&h); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %s: %w", h.Dst, err)
		}
	}
	return nil
}

// tunnel makes the VXLAN device and tells it where every peer is.
func (k *kernel) tunnel(name string, p plan, up uplink) (netlink.Link, error) {
	mtu := up.mtu - tunnelOverhead(p.local.ip)
	link, err := k.LinkByName(name)
	if err == nil {
		old, ok := link.(*netlink.Vxlan)
		if !ok || !old.SrcAddr.Equal(p.local.ip.AsSlice()) || old.VtepDevIndex != up.index || old.MTU != mtu {
			if err := k.LinkDel(link); err != nil {
				return nil, fmt.Errorf("remove tunnel %s: %w", name, err)
			}
			link = nil
		}
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = name, mtu, p.local.mac
		err := k.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: tunnelID, Port: tunnelPort, SrcAddr: p.local.ip.AsSlice(), VtepDevIndex: up.index})
		if err != nil {
			return nil, fmt.Errorf("make tunnel %s: %w", name, err)
		}
		if link, err = k.LinkByName(name); err != nil {
			return nil, fmt.Errorf("tunnel %s: %w", name, err)
		}
	}
	want := make([]netip.Prefix, len(p.local.addrs))
	for i, a := range p.local.addrs {
		want[i] = netip.PrefixFrom(a, a.BitLen())
	}
	if err := k.addresses(link, want); err != nil {
		return nil, err
	}
	if err := k.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("tunnel %s: %w", name, err)
	}
	return link, k.neighbours(link, p.tunnels)
}

// neighbours makes the tunnel's neighbour and forwarding entries those of the
// given peers.
func (k *kernel) neighbours(link netlink.Link, tunnels []tunnel) error {
	index := link.Attrs().Index
	var want []netlink.Neigh
	for _, t := range tunnels {
		family := unix.AF_INET
		if t.to.Addr().Is6() {
			family = unix.AF_INET6
		}
		want = append(want,
			netlink.Neigh{LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT, IP: t.to.Addr().AsSlice(), HardwareAddr: t.mac},
			netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: t.node.AsSlice(), HardwareAddr: t.mac})
	}
	same := func(a, b netlink.Neigh) bool {
		return a.IP.Equal(b.IP) && bytes.Equal(a.HardwareAddr, b.HardwareAddr)
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		have, err := k.NeighList(index, family)
		if err != nil {
			return fmt.Errorf("list neighbours: %w", err)
		}
		for _, h := range have {
			if h.State&netlink.NUD_PERMANENT == 0 || slices.ContainsFunc(want, func(w netlink.Neigh) bool { return w.Family == family && same(w, h) }) {
				continue
			}
			h.Family = family
			if err := k.NeighDel(&h); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove neighbour %s: %w", h.IP, err)
			}
		}
	}
	for _, w := range want {
		if err := k.NeighSet(&w); err != nil {
			return fmt.Errorf("neighbour %s: %w", w.IP, err)
		}
	}
	return nil
}

// watchKernel notices when someone removes an interface or a route of ours, or
// an interface goes down and takes its routes with it.
func (m *Manager) watchKernel(ctx context.Context) error {
	var at *netns.NsHandle
	if m.NetNS != 0 {
		h := netns.NsHandle(m.NetNS)
		at = &h
	}
	routes := make(chan netlink.RouteUpdate)
	links := make(chan netlink.LinkUpdate)
	if err := netlink.RouteSubscribeWithOptions(routes, ctx.Done(), netlink.RouteSubscribeOptions{Namespace: at}); err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	if err := netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{Namespace: at}); err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	go func() {
		for routes != nil || links != nil {
			select {
			case u, ok := <-routes:
				if !ok {
					routes = nil
				} else if u.Type == unix.RTM_DELROUTE && u.Protocol == routeProtocol {
					m.notify()
				}
			case u, ok := <-links:
				if !ok {
					links = nil
				} else if name := u.Attrs().Name; u.Header.Type == unix.RTM_DELLINK && (name == m.BridgeName || name == m.tunnelName()) || u.Change&unix.IFF_UP != 0 {
					m.notify()
				}
			}
		}
	}()
	return nil
}

// Cleanup removes everything that a Manager has put into the kernel and the
// CNI configuration.
func (m *Manager) Cleanup() error {
	k, err := m.open()
	if err != nil {
		return err
	}
	defer k.Close()
	errs := k.setRoutes(nil)
	for _, name := range []string{m.tunnelName(), m.BridgeName} {
		if link, err := k.LinkByName(name); err == nil {
			errs = errors.Join(errs, k.LinkDel(link))
		}
	}
	errs = errors.Join(errs, m.removeRules())
	if err := os.Remove(filepath.Join(m.CNIConfDir, confName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = errors.Join(errs, err)
	}
	return errs
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}
