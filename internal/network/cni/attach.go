package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// add attaches a pod. It may be repeated after a failure or a crash.
func add(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	key := attachmentKey(args.ContainerID, args.IfName)
	at, err := reserve(c, key, args.Netns)
	if err != nil {
		return err
	}
	p, err := openPod(args.Netns)
	if err != nil {
		return errors.Join(err, release(c, key))
	}
	defer p.close()
	result, err := p.connect(c, args, at.Addrs)
	if err == nil {
		err = mapPorts(at.Addrs, at.Ports)
	}
	if err != nil {
		return errors.Join(err, detach(c, args))
	}
	return types.PrintResult(result, c.CNIVersion)
}

// reserve records the pod's addresses and host ports.
func reserve(c *netConf, key, netnsPath string) (*attachment, error) {
	a, err := openAllocations(c.DataDir)
	if err != nil {
		return nil, err
	}
	defer a.close()
	at, err := a.take(key, netnsPath, c.Ranges, func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	if err := a.conflict(key, c.RuntimeConfig.PortMappings); err != nil {
		return nil, err
	}
	at.Ports = c.RuntimeConfig.PortMappings
	return at, a.save()
}

// release gives back what reserve recorded, if anything, after the host ports
// are closed.
func release(c *netConf, key string) error {
	a, err := openAllocations(c.DataDir)
	if err != nil {
		return err
	}
	defer a.close()
	at := a.Attachments[key]
	if at == nil {
		return nil
	}
	if err := unmapPorts(at.Addrs, at.Ports); err != nil {
		return err
	}
	delete(a.Attachments, key)
	return a.save()
}

// del detaches a pod; it succeeds when there is nothing to do.
func del(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	return detach(c, args)
}

func detach(c *netConf, args *skel.CmdArgs) error {
	// The address goes last: nobody may get it while the old pod can still
	// use it.
	if err := deleteLink(hostName(attachmentKey(args.ContainerID, args.IfName))); err != nil {
		return err
	}
	return release(c, attachmentKey(args.ContainerID, args.IfName))
}

// deleteLink removes an interface of the node, and with it its peer in the
// pod.
func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// pod is an open network namespace.
type pod struct {
	ns netns.NsHandle
	*netlink.Handle
}

func openPod(path string) (*pod, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return &pod{ns, h}, nil
}

func (p *pod) close() {
	p.Close()
	p.ns.Close()
}

// connect makes the pair of interfaces and sets the pod's end up.
func (p *pod) connect(c *netConf, args *skel.CmdArgs, addrs []netip.Addr) (*current.Result, error) {
	bridge, err := netlink.LinkByName(c.Bridge)
	if err != nil {
		return nil, types.NewError(types.ErrPluginNotAvailable, "the node's bridge "+c.Bridge+" is not there", err.Error())
	}
	name := hostName(attachmentKey(args.ContainerID, args.IfName))
	// What an interrupted attempt has left.
	if err := deleteLink(name); err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = name, c.MTU, bridge.Attrs().Index
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU = args.IfName, uint32(c.MTU)
	veth.PeerNamespace = netlink.NsFd(p.ns)
	veth.PeerHardwareAddr = HardwareAddr(addrs[0])
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("make interface %s: %w", args.IfName, err)
	}
	host, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	// Where the kernel passes bridged packets through the IP rules
	// (bridge-nf-call-iptables), one that a Service sends back to the pod it
	// came from does not rise to the node's routing: the bridge turns it around.
	if err := netlink.LinkSetHairpin(host, true); err != nil {
		return nil, fmt.Errorf("hairpin mode of interface %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(host); err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	inside, err := p.configure(args.IfName, addrs, c.Ranges)
	if err != nil {
		return nil, err
	}
	result := &current.Result{CNIVersion: current.ImplementedSpecVersion, Interfaces: []*current.Interface{
		{Name: c.Bridge, Mac: bridge.Attrs().HardwareAddr.String()},
		{Name: name, Mac: host.Attrs().HardwareAddr.String()},
		{Name: args.IfName, Mac: inside.Attrs().HardwareAddr.String(), Mtu: c.MTU, Sandbox: args.Netns},
	}}
	for i, a := range addrs {
		gw := c.Ranges[i].Gateway.AsSlice()
		result.IPs = append(result.IPs, &current.IPConfig{Interface: current.Int(2), Address: hostNet(a), Gateway: gw})
		result.Routes = append(result.Routes, &types.Route{Dst: anywhere(a), GW: gw})
	}
	return result, nil
}

// configure gives the pod's interface its addresses and routes.
func (p *pod) configure(ifName string, addrs []netip.Addr, ranges []Range) (netlink.Link, error) {
	if err := p.loopbackUp(); err != nil {
		return nil, err
	}
	link, err := p.LinkByName(ifName)
	if err != nil {
		return nil, fmt.Errorf("interface %s in the pod: %w", ifName, err)
	}
	for _, a := range addrs {
		ip := hostNet(a)
		addr := &netlink.Addr{IPNet: &ip}
		if a.Is6() {
			if err := p.enableIPv6(ifName); err != nil {
				return nil, err
			}
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := p.AddrAdd(link, addr); err != nil {
			return nil, fmt.Errorf("address %s in the pod: %w", a, err)
		}
	}
	if err := p.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("interface %s in the pod: %w", ifName, err)
	}
	index := link.Attrs().Index
	for _, r := range ranges {
		gw := hostNet(r.Gateway)
		if err := p.RouteAdd(&netlink.Route{LinkIndex: index, Dst: &gw, Scope: netlink.SCOPE_LINK}); err != nil {
			return nil, fmt.Errorf("route to the gateway in the pod: %w", err)
		}
		all := anywhere(r.Gateway)
		if err := p.RouteAdd(&netlink.Route{LinkIndex: index, Dst: &all, Gw: gw.IP}); err != nil {
			return nil, fmt.Errorf("default route in the pod: %w", err)
		}
	}
	return link, nil
}

// enableIPv6 also has the pod ignore the gateway's hints that another pod is on
// the same link: packets between pods must pass the node's rules.
func (p *pod) enableIPv6(ifName string) error {
	return InNamespace(int(p.ns), func() error {
		dir := "/proc/sys/net/ipv6/conf/" + ifName
		return errors.Join(
			os.WriteFile(dir+"/disable_ipv6", []byte("0"), 0),
			os.WriteFile(dir+"/accept_dad", []byte("0"), 0),
			os.WriteFile(dir+"/accept_redirects", []byte("0"), 0))
	})
}

func (p *pod) loopbackUp() error {
	lo, err := p.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback interface in the pod: %w", err)
	}
	if err := p.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback interface in the pod: %w", err)
	}
	return nil
}

// hostName is the name of the node's end of an attachment, short enough for
// the kernel.
func hostName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "veth" + hex.EncodeToString(sum[:5])
}

// HardwareAddr derives an interface's hardware address from its IP address:
// when another pod gets the address, what its neighbours have learnt stays
// true.
func HardwareAddr(a netip.Addr) net.HardwareAddr {
	raw := a.AsSlice()
	if a.Is6() {
		sum := sha256.Sum256(raw)
		raw = sum[:]
	}
	return net.HardwareAddr{0x0a, 0x58, raw[0], raw[1], raw[2], raw[3]}
}

func hostNet(a netip.Addr) net.IPNet {
	return net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func anywhere(like netip.Addr) net.IPNet {
	return net.IPNet{IP: make(net.IP, like.BitLen()/8), Mask: net.CIDRMask(0, like.BitLen())}
}
