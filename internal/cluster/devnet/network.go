package devnet

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// clusterRanges are the default addresses of pods and Services, which the
// machine itself must never send to its default route.
var clusterRanges = []netip.Prefix{
	netip.MustParsePrefix("10.244.0.0/16"),
	netip.MustParsePrefix("10.96.0.0/12"),
}

// serviceRange is the part of them that a node reaches by its own proxy.
var serviceRange = clusterRanges[1]

// routeProtocol marks the routes that are ours.
const routeProtocol = 0x53

// linkName returns an interface's name, at most 15 bytes long: prefix and name,
// or a hash where that is too long.
func linkName(prefix, name string) string {
	if len(prefix)+len(name) <= unix.IFNAMSIZ-1 {
		return prefix + name
	}
	return prefix + fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:unix.IFNAMSIZ-1-len(prefix)]
}

func (c *Cluster) bridge() string          { return linkName("skiff-", c.Name) }
func (c *Cluster) hostLink(n *Node) string { return linkName("sk-", n.Name) }

func (c *Cluster) hostAddress(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(c.Subnet.Bits(), addr.BitLen())}
}

// freeSubnet returns a network for a new cluster that no address, route or
// other cluster of the machine uses.
func freeSubnet(others []*Cluster) (netip.Prefix, error) {
	used, err := usedPrefixes()
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, c := range others {
		used = append(used, c.Subnet)
	}
	for n := range 256 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(n), 0}), 24)
		if overlapping(subnet, used) == nil {
			return subnet, nil
		}
	}
	return netip.Prefix{}, errors.New("every network of 172.30.0.0/16 is in use on this machine; choose one with --subnet")
}

func overlapping(subnet netip.Prefix, used []netip.Prefix) *netip.Prefix {
	for _, u := range used {
		if u.Overlaps(subnet) {
			return &u
		}
	}
	return nil
}

// usedPrefixes are the machine's networks: its addresses and routes, but the
// default route.
func usedPrefixes() ([]netip.Prefix, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, 0)
	if err != nil {
		return nil, fmt.Errorf("reading the routes: %w", err)
	}
	var used []netip.Prefix
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 {
			used = append(used, p)
		}
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("reading the addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			used = append(used, p)
		}
	}
	return used, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits).Masked(), ok
}

// makeNetwork makes the bridge, the routes and, unless the cluster is isolated,
// the way out. What is there already is kept.
func (c *Cluster) makeNetwork(m *machine) error {
	if err := c.makeBridge(); err != nil {
		return err
	}
	for _, r := range clusterRanges {
		if err := addBlackhole(r); err != nil {
			return err
		}
	}
	if c.Isolated {
		return nil
	}
	if err := m.forward(); err != nil {
		return err
	}
	return c.makeMasquerade()
}

func (c *Cluster) makeBridge() error {
	link, err := netlink.LinkByName(c.bridge())
	if err != nil {
		used, err := usedPrefixes()
		if err != nil {
			return err
		}
		if other := overlapping(c.Subnet, used); other != nil {
			return fmt.Errorf("the network %s overlaps %s, which this machine uses; choose another with --subnet", c.Subnet, other)
		}
		link = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: c.bridge()}}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("making bridge %s (does the kernel have bridges? modprobe bridge): %w", c.bridge(), err)
		}
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: c.hostAddress(c.gateway())}); err != nil {
		return fmt.Errorf("giving bridge %s its address: %w", c.bridge(), err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("starting bridge %s: %w", c.bridge(), err)
	}
	return nil
}

// checkBridge reports that the bridge is another's: of a cluster of the same
// name in another home.
func (c *Cluster) checkBridge() error {
	link, err := netlink.LinkByName(c.bridge())
	if err != nil {
		return nil
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("reading the addresses of bridge %s: %w", c.bridge(), err)
	}
	for _, a := range addrs {
		if a.IPNet.String() != c.hostAddress(c.gateway()).String() {
			return fmt.Errorf("bridge %s has the address %s, so it belongs to another cluster of the name %s; choose another name with --name", c.bridge(), a.IPNet, c.Name)
		}
	}
	return nil
}

// addBlackhole keeps the machine's own traffic to a range at home, unless there
// is a route of someone else's for it.
func addBlackhole(r netip.Prefix) error {
	route := blackhole(r)
	if err := netlink.RouteAdd(&route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("adding a blackhole route for %s: %w", r, err)
	}
	return nil
}

func blackhole(r netip.Prefix) netlink.Route {
	return netlink.Route{
		Dst:      ipNet(r),
		Type:     unix.RTN_BLACKHOLE,
		Protocol: routeProtocol,
	}
}

// removeNetwork removes what makeNetwork made; the last cluster takes the
// shared routes with it.
func (c *Cluster) removeNetwork(last bool) error {
	if err := c.checkBridge(); err != nil {
		return err
	}
	var failed []error
	if link, err := netlink.LinkByName(c.bridge()); err == nil {
		failed = append(failed, netlink.LinkDel(link))
	}
	for _, n := range c.Nodes {
		if link, err := netlink.LinkByName(c.hostLink(&n)); err == nil {
			failed = append(failed, netlink.LinkDel(link))
		}
	}
	if last {
		for _, r := range clusterRanges {
			route := blackhole(r)
			if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
				failed = append(failed, fmt.Errorf("removing the blackhole route for %s: %w", r, err))
			}
		}
	}
	return errors.Join(append(failed, c.removeMasquerade())...)
}

// connect gives the network namespace of a process the node's link, address
// and routes.
func (c *Cluster) connect(n *Node, pid int) error {
	bridge, err := netlink.LinkByName(c.bridge())
	if err != nil {
		return fmt.Errorf("finding bridge %s: %w", c.bridge(), err)
	}
	if old, err := netlink.LinkByName(c.hostLink(n)); err == nil {
		// Of an earlier life of the node, whose namespace is ending.
		if err := netlink.LinkDel(old); err != nil {
			return fmt.Errorf("removing the old link of node %s: %w", n.Name, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = c.hostLink(n), bridge.Attrs().Index
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsPid(pid)
	veth.PeerHardwareAddr = hardwareAddress(n.IP)
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("making the link of node %s (does the kernel have veth? modprobe veth): %w", n.Name, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("starting the link of node %s: %w", n.Name, err)
	}
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("opening the network namespace of node %s: %w", n.Name, err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("entering the network namespace of node %s: %w", n.Name, err)
	}
	defer inside.Close()
	return c.configure(inside, n)
}

// hardwareAddress is the same in every life of a node, so that what its
// neighbours remember of it stays true.
func hardwareAddress(addr netip.Addr) net.HardwareAddr {
	ip := addr.As4()
	return net.HardwareAddr{0x0a, routeProtocol, ip[0], ip[1], ip[2], ip[3]}
}

// configure sets up the interfaces inside a node.
func (c *Cluster) configure(inside *netlink.Handle, n *Node) error {
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("node %s: finding interface lo: %w", n.Name, err)
	}
	eth, err := inside.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("node %s: finding interface eth0: %w", n.Name, err)
	}
	if err := inside.AddrAdd(eth, &netlink.Addr{IPNet: c.hostAddress(n.IP)}); err != nil {
		return fmt.Errorf("node %s: setting the address %s: %w", n.Name, n.IP, err)
	}
	for _, link := range []netlink.Link{lo, eth} {
		if err := inside.LinkSetUp(link); err != nil {
			return fmt.Errorf("node %s: starting interface %s: %w", n.Name, link.Attrs().Name, err)
		}
	}
	// The kernel wants a route to a Service's address before the proxy gets to
	// translate it.
	routes := []netlink.Route{{LinkIndex: eth.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(serviceRange)}}
	if !c.Isolated {
		routes = append(routes, netlink.Route{LinkIndex: eth.Attrs().Index, Gw: c.gateway().AsSlice()})
	}
	for _, r := range routes {
		if err := inside.RouteAdd(&r); err != nil {
			return fmt.Errorf("node %s: adding route %v: %w", n.Name, r, err)
		}
	}
	return nil
}

// setPartitioned cuts a node's link or restores it.
func (c *Cluster) setPartitioned(n *Node, cut bool) error {
	link, err := netlink.LinkByName(c.hostLink(n))
	if err != nil {
		return fmt.Errorf("node %s has no link; is it running? %w", n.Name, err)
	}
	if cut {
		return netlink.LinkSetDown(link)
	}
	return netlink.LinkSetUp(link)
}

func (c *Cluster) partitioned(n *Node) bool {
	link, err := netlink.LinkByName(c.hostLink(n))
	return err == nil && link.Attrs().Flags&net.FlagUp == 0
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
