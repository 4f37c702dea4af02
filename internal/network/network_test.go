package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/network/cni"
	"skiff/internal/network/nettest"
)

// TestMain makes the test program the CNI plugin when it is called by its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == cni.Name {
		os.Exit(cni.Main(cni.Name, os.Stdout))
	}
	os.Exit(m.Run())
}

// member is a node of a test cluster.
type member struct {
	*testing.T
	ns   *nettest.NS
	m    *Manager
	node *corev1.Node
	dir  string
}

// join makes a node whose address is on a link that ns has already.
func join(t *testing.T, ns *nettest.NS, name, backend string, ips []string, cidrs ...string) *member {
	n := &member{T: t, ns: ns, dir: t.TempDir(), node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}}
	var addrs []netip.Addr
	for _, ip := range ips {
		addrs = append(addrs, netip.MustParseAddr(ip))
		n.node.Status.Addresses = append(n.node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	var err error
	n.m, err = New(Config{
		NodeName: name, NodeIPs: addrs, Backend: backend,
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/48")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		CNIConfDir:   filepath.Join(n.dir, "net.d"), DataDir: n.dir, NetNS: ns.FD(),
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// meet tells all nodes of each other.
func meet(nodes ...*member) {
	for _, n := range nodes {
		n.Helper()
		for _, o := range nodes {
			n.m.node(o.node, false)
		}
		if err := n.m.sync(); err != nil {
			n.Fatalf("%s: %v", n.node.Name, err)
		}
	}
}

// pod attaches a new pod with the configuration that the manager has written.
func (n *member) pod(id string) (*nettest.NS, []string) {
	n.Helper()
	pod := nettest.New(n)
	list := struct {
		Plugins []map[string]any `json:"plugins"`
	}{}
	data, err := os.ReadFile(filepath.Join(n.dir, "net.d", confName))
	if err != nil {
		n.Fatal(err)
	}
	if err := json.Unmarshal(data, &list); err != nil {
		n.Fatal(err)
	}
	list.Plugins[0]["cniVersion"], list.Plugins[0]["name"] = "1.1.0", "skiff"
	stdin, err := json.Marshal(list.Plugins[0])
	if err != nil {
		n.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		n.Fatal(err)
	}
	plugin := filepath.Join(n.dir, list.Plugins[0]["type"].(string))
	_ = os.Symlink(self, plugin)
	cmd := exec.Command(plugin)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + id, "CNI_NETNS=" + pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=" + n.dir}
	var out []byte
	n.ns.Do(func() { out, err = cmd.Output() })
	if err != nil {
		n.Fatalf("%v: %s", err, out)
	}
	result := &current.Result{}
	if err := json.Unmarshal(out, result); err != nil {
		n.Fatal(err)
	}
	var ips []string
	for _, ip := range result.IPs {
		ips = append(ips, ip.Address.IP.String())
	}
	return pod, ips
}

func (n *member) tunnel() bool {
	_, err := n.ns.LinkByName("skiff0-vx")
	return err == nil
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// segment makes two nodes on one segment.
func segment(t *testing.T, backend string) (a, b *member) {
	na, nb := nettest.New(t), nettest.New(t)
	nettest.Cable(
		nettest.Link{NS: na, Name: "eth0", Addrs: prefixes("192.168.50.1/24", "fd00:50::1/64")},
		nettest.Link{NS: nb, Name: "eth0", Addrs: prefixes("192.168.50.2/24", "fd00:50::2/64")})
	a = join(t, na, "a", backend, []string{"192.168.50.1", "fd00:50::1"}, "10.244.1.0/24", "fd00:244:0:1::/64")
	b = join(t, nb, "b", backend, []string{"192.168.50.2", "fd00:50::2"}, "10.244.2.0/24", "fd00:244:0:2::/64")
	return a, b
}

// reach checks that two pods on different nodes see each other's real
// addresses, and that the other node sees the pod's.
func reach(t *testing.T, a, b *member) {
	t.Helper()
	pa, ipa := a.pod("a")
	pb, ipb := b.pod("b")
	for i := range ipa {
		to := netip.AddrPortFrom(netip.MustParseAddr(ipb[i]), 80).String()
		pb.ServeTCP(to, "b")
		who, seen, err := pa.Ask("tcp", to)
		if who != "b" || seen != ipa[i] {
			t.Errorf("pod to pod at %s: got %q from %q, %v", to, who, seen, err)
		}
		if who, _, err := a.ns.Ask("tcp", to); who != "b" {
			t.Errorf("node to pod at %s: got %q, %v", to, who, err)
		}
	}
}

func TestPlainRoutes(t *testing.T) {
	for _, backend := range []string{BackendAuto, BackendHostGW} {
		t.Run(backend, func(t *testing.T) {
			a, b := segment(t, backend)
			meet(a, b)
			reach(t, a, b)
			if a.tunnel() {
				t.Error("there is a tunnel although nodes are on one segment")
			}
		})
	}
}

func TestTunnel(t *testing.T) {
	a, b := segment(t, BackendVXLAN)
	meet(a, b)
	reach(t, a, b)
	if !a.tunnel() {
		t.Error("there is no tunnel")
	}
	link, err := a.ns.LinkByName("skiff0")
	if err != nil || link.Attrs().MTU != 1450 {
		t.Errorf("bridge %v, %v: want MTU 1450", link, err)
	}
}

func TestTunnelBetweenSegments(t *testing.T) {
	na, router, nb := nettest.New(t), nettest.New(t), nettest.New(t)
	nettest.Cable(nettest.Link{NS: na, Name: "eth0", Addrs: prefixes("192.168.50.1/24")}, nettest.Link{NS: router, Name: "eth0", Addrs: prefixes("192.168.50.254/24")})
	nettest.Cable(nettest.Link{NS: nb, Name: "eth0", Addrs: prefixes("192.168.60.1/24")}, nettest.Link{NS: router, Name: "eth1", Addrs: prefixes("192.168.60.254/24")})
	router.Sysctl("ipv4/ip_forward", "1")
	na.Route(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.168.50.254"), "eth0")
	nb.Route(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.168.60.254"), "eth0")
	a := join(t, na, "a", BackendAuto, []string{"192.168.50.1"}, "10.244.1.0/24")
	b := join(t, nb, "b", BackendAuto, []string{"192.168.60.1"}, "10.244.2.0/24")
	meet(a, b)
	reach(t, a, b)
	if !a.tunnel() {
		t.Error("there is no tunnel")
	}
	// When the other node goes, so does the tunnel.
	a.m.node(b.node, true)
	if err := a.m.sync(); err != nil {
		t.Fatal(err)
	}
	if a.tunnel() {
		t.Error("the tunnel is still there")
	}
}

func TestOutside(t *testing.T) {
	a, b := segment(t, BackendAuto)
	meet(a)
	pod, _ := a.pod("p")
	b.ns.ServeTCP("192.168.50.2:80", "outside")
	if who, seen, err := pod.Ask("tcp", "192.168.50.2:80"); who != "outside" || seen != "192.168.50.1" {
		t.Errorf("got %q, %v, and the source %s; want the node's address", who, err, seen)
	}
	// Addresses of pods that do not exist must not stray out of the node, even
	// with a default route.
	a.ns.Route(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.168.50.2"), "eth0")
	b.ns.Route(netip.MustParsePrefix("10.244.0.0/16"), netip.MustParseAddr("192.168.50.1"), "eth0")
	lo, err := b.ns.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ns.AddrAdd(lo, &netlink.Addr{IPNet: nettest.IPNet(netip.MustParsePrefix("10.244.77.7/32"))}); err != nil {
		t.Fatal(err)
	}
	b.ns.ServeTCP("10.244.77.7:80", "stray")
	if who, _, err := pod.Ask("tcp", "10.244.77.7:80"); err == nil {
		t.Errorf("%s answers for an address of the cluster from outside", who)
	}
	// Services are reached through the bridge.
	routes, err := a.ns.RouteGet(netip.MustParseAddr("10.96.0.1").AsSlice())
	if err != nil || len(routes) != 1 || routes[0].Src.String() != "10.244.1.1" {
		t.Errorf("route to services: %v, %v", routes, err)
	}
}

func TestChanges(t *testing.T) {
	a, b := segment(t, BackendAuto)
	meet(a, b)
	routes := func() []string {
		list, err := a.ns.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range list {
			out = append(out, fmt.Sprintf("%s via %s", r.Dst, r.Gw))
		}
		slices.Sort(out)
		return out
	}
	base := []string{"10.244.0.0/16 via <nil>", "10.96.0.0/16 via <nil>"}
	if got := routes(); !slices.Equal(got, []string{base[0], "10.244.2.0/24 via 192.168.50.2", base[1]}) {
		t.Errorf("routes %v", got)
	}
	moved := b.node.DeepCopy()
	moved.Status.Addresses[0].Address = "192.168.50.3"
	a.m.node(moved, false)
	if err := a.m.sync(); err != nil {
		t.Fatal(err)
	}
	if got := routes(); !slices.Equal(got, []string{base[0], "10.244.2.0/24 via 192.168.50.3", base[1]}) {
		t.Errorf("after the node has moved: routes %v", got)
	}
	a.m.node(moved, true)
	if err := a.m.sync(); err != nil {
		t.Fatal(err)
	}
	if got := routes(); !slices.Equal(got, base) {
		t.Errorf("after the node has gone: routes %v", got)
	}
	if err := a.m.Cleanup(); err != nil {
		t.Fatal(err)
	}
	if got := routes(); len(got) != 0 {
		t.Errorf("after the clean-up: routes %v", got)
	}
	if _, err := a.ns.LinkByName("skiff0"); err == nil {
		t.Error("after the clean-up the bridge is still there")
	}
}

// TestNoticesForeignChanges removes things behind the manager's back.
func TestNoticesForeignChanges(t *testing.T) {
	a, b := segment(t, BackendAuto)
	meet(a, b)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := a.m.watchKernel(ctx); err != nil {
		t.Fatal(err)
	}
	woken := func(what string) {
		t.Helper()
		select {
		case <-a.m.wake:
		case <-time.After(time.Minute):
			t.Fatalf("%s was not noticed", what)
		}
		if err := a.m.sync(); err != nil {
			t.Fatal(err)
		}
	}
	drain := func() {
		for {
			select {
			case <-a.m.wake:
			default:
				return
			}
		}
	}
	drain()
	eth, err := a.ns.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.ns.RouteDel(&netlink.Route{Dst: nettest.IPNet(netip.MustParsePrefix("10.244.2.0/24")), LinkIndex: eth.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	woken("a removed route")
	drain()
	bridge, err := a.ns.LinkByName("skiff0")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.ns.LinkDel(bridge); err != nil {
		t.Fatal(err)
	}
	woken("a removed bridge")
	reach(t, a, b)
}

func TestWrongConfiguration(t *testing.T) {
	if _, err := New(Config{NodeIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Backend: "ipsec"}); err == nil {
		t.Error("an unknown backend is accepted")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a node without an address is accepted")
	}
	a := join(t, nettest.New(t), "a", BackendAuto, []string{"192.168.99.1"}, "10.244.1.0/24")
	a.m.node(a.node, false)
	if err := a.m.sync(); err == nil {
		t.Error("an address that no interface has is accepted")
	}
}

func TestPlan(t *testing.T) {
	m := &Manager{Config: Config{NodeIPs: []netip.Addr{netip.MustParseAddr("192.168.50.1")}, Backend: BackendAuto}}
	self := peer{name: "self", cidrs: prefixes("10.244.1.0/24")}
	up := uplink{mtu: 1500, onLink: prefixes("192.168.50.0/24")}
	near := peer{name: "near", cidrs: prefixes("10.244.2.0/24"), ips: []netip.Addr{netip.MustParseAddr("192.168.50.2")}}
	far := peer{name: "far", cidrs: prefixes("10.244.3.0/24"), ips: []netip.Addr{netip.MustParseAddr("192.168.60.2")}}
	clash := peer{name: "clash", cidrs: prefixes("10.244.1.0/24"), ips: near.ips}
	blank := peer{name: "blank", cidrs: prefixes("10.244.4.0/24")}
	for _, c := range []struct {
		backend         string
		direct, tunnels int
		end             bool
	}{{BackendAuto, 1, 1, true}, {BackendHostGW, 1, 0, false}, {BackendVXLAN, 0, 2, true}} {
		m.Backend = c.backend
		p := m.plan(self, []peer{near, far, clash, blank}, up)
		if len(p.direct) != c.direct || len(p.tunnels) != c.tunnels || (p.local != nil) != c.end {
			t.Errorf("%s: %+v", c.backend, p)
		}
	}
	if tunnelMAC(near.ips[0]).String() == tunnelMAC(far.ips[0]).String() || tunnelMAC(near.ips[0])[0]&1 != 0 {
		t.Error("tunnel hardware addresses must differ and be no group addresses")
	}
}
