// Package nettest makes network namespaces for tests, so that these see real
// packets without touching the machine's own network. Everything goes when the
// test ends, however it ends: a namespace lives as long as its file descriptor.
package nettest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is a network namespace.
type NS struct {
	t  testing.TB
	fd netns.NsHandle
	*netlink.Handle
}

// New makes a namespace with its loopback interface up. It skips the test if
// the process may not.
func New(t testing.TB) *NS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	n := &NS{t: t, fd: netns.None()}
	made := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine, as it is in the wrong namespace.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- err
			return
		}
		var err error
		n.fd, err = netns.Get()
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	var err error
	if n.Handle, err = netlink.NewHandleAt(n.fd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		n.fd.Close()
	})
	lo, err := n.LinkByName("lo")
	n.must(err)
	n.must(n.LinkSetUp(lo))
	return n
}

// FD returns the file descriptor that refers to the namespace.
func (n *NS) FD() int { return int(n.fd) }

// Path returns a path that refers to the namespace, for this process.
func (n *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.fd)) }

func (n *NS) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// Do calls f on a thread in the namespace.
func (n *NS) Do(f func()) {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(n.fd); err != nil {
			done <- err
			return
		}
		defer close(done)
		f()
	}()
	n.must(<-done)
}

// Sysctl sets a kernel setting below /proc/sys/net.
func (n *NS) Sysctl(name, value string) {
	n.t.Helper()
	var err error
	n.Do(func() { err = os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	n.must(err)
}

// Link is one end of a cable.
type Link struct {
	NS    *NS
	Name  string
	Addrs []netip.Prefix
}

// Cable connects two namespaces.
func Cable(a, b Link) {
	a.NS.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Name
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = b.Name, netlink.NsFd(b.NS.fd)
	a.NS.must(a.NS.LinkAdd(veth))
	for _, l := range []Link{a, b} {
		link, err := l.NS.LinkByName(l.Name)
		l.NS.must(err)
		l.NS.Sysctl("ipv6/conf/"+l.Name+"/accept_dad", "0") // Would take a second.
		for _, p := range l.Addrs {
			l.NS.must(l.NS.AddrAdd(link, &netlink.Addr{IPNet: IPNet(p), Flags: unix.IFA_F_NODAD}))
		}
		l.NS.must(l.NS.LinkSetUp(link))
	}
}

// Switch connects namespaces on one segment, through a bridge in sw.
func Switch(sw *NS, ends ...Link) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "switch"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	sw.must(sw.LinkAdd(bridge))
	sw.must(sw.LinkSetUp(bridge))
	for i, e := range ends {
		port := Link{NS: sw, Name: fmt.Sprintf("port%d", i)}
		Cable(port, e)
		link, err := sw.LinkByName(port.Name)
		sw.must(err)
		sw.must(sw.LinkSetMaster(link, bridge))
	}
}

// Route adds a route; an invalid via means that dst is on the link.
func (n *NS) Route(dst netip.Prefix, via netip.Addr, dev string) {
	n.t.Helper()
	link, err := n.LinkByName(dev)
	n.must(err)
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: IPNet(dst), Scope: netlink.SCOPE_LINK}
	if via.IsValid() {
		r.Gw, r.Scope, r.Flags = via.AsSlice(), netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
	}
	n.must(n.RouteReplace(r))
}

// ServeTCP answers every connection with reply and the address it came from,
// until the test ends.
func (n *NS) ServeTCP(at, reply string) {
	n.t.Helper()
	var l net.Listener
	var err error
	n.Do(func() { l, err = net.Listen("tcp", at) })
	n.must(err)
	n.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "%s %s", reply, host)
			c.Close()
		}
	}()
}

// ServeUDP answers every packet with reply and the address it came from.
func (n *NS) ServeUDP(at, reply string) {
	n.t.Helper()
	var c net.PacketConn
	var err error
	n.Do(func() { c, err = net.ListenPacket("udp", at) })
	n.must(err)
	n.t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			_, _ = c.WriteTo(fmt.Appendf(nil, "%s %s", reply, host), from)
		}
	}()
}

// Dial opens a connection from the namespace.
func (n *NS) Dial(network, to string) (c net.Conn, err error) {
	n.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		var d net.Dialer
		c, err = d.DialContext(ctx, network, to)
	})
	return c, err
}

// Ask sends a request and returns who answered and which source address the
// answerer saw.
func (n *NS) Ask(network, to string) (who, seen string, err error) {
	c, err := n.Dial(network, to)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	return Ask(c)
}

// Ask does the same on an open connection.
func Ask(c net.Conn) (who, seen string, err error) {
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return "", "", err
	}
	if c.LocalAddr().Network() == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", "", err
		}
	}
	buf := make([]byte, 200)
	k, err := c.Read(buf)
	if err != nil {
		return "", "", err
	}
	_, err = fmt.Sscanf(string(buf[:k]), "%s %s", &who, &seen)
	return who, seen, err
}

// IPNet converts a prefix.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
