package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"skiff/internal/network/nettest"
)

// TestMain makes the test program the plugin when it is called by that name.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); name == Name || name == Loopback {
		os.Exit(Main(name, os.Stdout))
	}
	os.Exit(m.Run())
}

// A lab is a node with a bridge and a machine outside.
type lab struct {
	*testing.T
	node, outside *nettest.NS
	dir           string
	ranges        []Range
}

func newLab(t *testing.T, subnets ...string) *lab {
	l := &lab{T: t, node: nettest.New(t), outside: nettest.New(t), dir: t.TempDir()}
	nettest.Cable(
		nettest.Link{NS: l.node, Name: "uplink", Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.50.1/24")}},
		nettest.Link{NS: l.outside, Name: "eth0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.50.2/24")}})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Name, Loopback} {
		if err := os.Symlink(self, filepath.Join(l.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "br0", HardwareAddr(netip.MustParsePrefix(subnets[0]).Addr().Next())
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := l.node.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	for _, s := range subnets {
		p := netip.MustParsePrefix(s)
		r := Range{Subnet: p, Gateway: p.Addr().Next()}
		l.ranges = append(l.ranges, r)
		if err := l.node.AddrAdd(bridge, &netlink.Addr{IPNet: nettest.IPNet(netip.PrefixFrom(r.Gateway, p.Bits())), Flags: 2}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.node.LinkSetUp(bridge); err != nil {
		t.Fatal(err)
	}
	l.node.Sysctl("ipv4/ip_forward", "1")
	l.node.Sysctl("ipv4/conf/br0/send_redirects", "0")
	l.node.Sysctl("ipv4/conf/br0/route_localnet", "1")
	l.node.Sysctl("ipv6/conf/all/forwarding", "1")
	return l
}

// command prepares a call of the plugin as a container runtime makes it.
func (l *lab) command(plugin, verb, id, netns string, extra map[string]any) *exec.Cmd {
	conf := map[string]any{
		"cniVersion": "1.1.0", "name": "test", "type": plugin, "bridge": "br0", "mtu": 1400,
		"dataDir": filepath.Join(l.dir, "data"), "ranges": l.ranges,
	}
	for k, v := range extra {
		conf[k] = v
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		l.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(l.dir, plugin))
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=" + l.dir}
	return cmd
}

// call runs the plugin on the node.
func (l *lab) call(plugin, verb, id, netns string, extra map[string]any) ([]byte, error) {
	cmd := l.command(plugin, verb, id, netns, extra)
	var out []byte
	var err error
	l.node.Do(func() { out, err = cmd.Output() })
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", verb, err, out)
	}
	return out, err
}

func (l *lab) add(id string, pod *nettest.NS, extra map[string]any) *current.Result {
	l.Helper()
	out, err := l.call(Name, "ADD", id, pod.Path(), extra)
	if err != nil {
		l.Fatal(err)
	}
	result := &current.Result{}
	if err := json.Unmarshal(out, result); err != nil {
		l.Fatalf("%v: %s", err, out)
	}
	return result
}

func (l *lab) must(_ []byte, err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func ports(p ...PortMapping) map[string]any {
	return map[string]any{"runtimeConfig": map[string]any{"portMappings": p}}
}

func address(r *current.Result, i int) string { return r.IPs[i].Address.IP.String() }

func TestAddAndDelete(t *testing.T) {
	l := newLab(t, "10.244.1.0/24", "fd00:1::/64")
	a, b := nettest.New(t), nettest.New(t)
	ra, rb := l.add("a", a, nil), l.add("b", b, nil)
	if address(ra, 0) != "10.244.1.2" || address(ra, 1) != "fd00:1::2" || address(rb, 0) != "10.244.1.3" {
		t.Errorf("addresses %v and %v", ra.IPs, rb.IPs)
	}
	if got := ra.Interfaces[*ra.IPs[0].Interface]; got.Name != "eth0" || got.Sandbox != a.Path() || got.Mac != "0a:58:0a:f4:01:02" {
		t.Errorf("interface %+v", got)
	}
	b.ServeTCP("10.244.1.3:80", "b")
	b.ServeTCP("[fd00:1::3]:80", "b")
	l.node.ServeTCP("10.244.1.1:80", "gateway")
	for to, want := range map[string]string{"10.244.1.3:80": "b", "[fd00:1::3]:80": "b", "10.244.1.1:80": "gateway"} {
		if who, _, err := a.Ask("tcp", to); who != want {
			t.Errorf("%s: got %q, %v", to, who, err)
		}
	}
	if again := l.add("a", a, nil); address(again, 0) != "10.244.1.2" {
		t.Errorf("a repeated ADD gives %s", address(again, 0))
	}
	l.must(l.call(Name, "CHECK", "a", a.Path(), map[string]any{"prevResult": ra}))
	l.must(l.call(Name, "STATUS", "", "", nil))
	l.must(l.call(Name, "DEL", "a", a.Path(), nil))
	l.must(l.call(Name, "DEL", "a", "", nil))
	if _, err := l.call(Name, "CHECK", "a", a.Path(), map[string]any{"prevResult": ra}); err == nil {
		t.Error("CHECK finds a pod that was deleted")
	}
	if _, err := a.LinkByName("eth0"); err == nil {
		t.Error("the pod's interface is still there")
	}
	// The address just given up comes last.
	if r := l.add("c", nettest.New(t), nil); address(r, 0) != "10.244.1.4" {
		t.Errorf("the next pod gets %s", address(r, 0))
	}
}

func TestLoopback(t *testing.T) {
	l := newLab(t, "10.244.1.0/24")
	pod := nettest.New(t)
	lo, err := pod.LinkByName("lo")
	l.must(nil, err)
	l.must(nil, pod.LinkSetDown(lo))
	l.must(l.call(Loopback, "ADD", "a", pod.Path(), nil))
	pod.ServeTCP("127.0.0.1:80", "self")
	if who, _, err := pod.Ask("tcp", "127.0.0.1:80"); who != "self" {
		t.Errorf("got %q, %v", who, err)
	}
	l.must(l.call(Loopback, "DEL", "a", pod.Path(), nil))
}

func TestHostPorts(t *testing.T) {
	l := newLab(t, "10.244.1.0/24")
	pods := map[string]*nettest.NS{}
	for i, name := range []string{"every", "loopback", "address"} {
		pods[name] = nettest.New(t)
		mapping := []PortMapping{
			{HostPort: 8080, ContainerPort: 80, Protocol: "tcp", HostIP: []string{"", "127.0.0.1", "192.168.50.1"}[i]},
			{HostPort: 8080, ContainerPort: 80, Protocol: "udp", HostIP: []string{"", "127.0.0.1", "192.168.50.1"}[i]},
		}
		ip := address(l.add(name, pods[name], ports(mapping...)), 0)
		pods[name].ServeTCP(ip+":80", name)
		pods[name].ServeUDP(ip+":80", name)
	}
	check := func(from *nettest.NS, to, want string) {
		t.Helper()
		for _, network := range []string{"tcp", "udp"} {
			if who, _, err := from.Ask(network, to); who != want {
				t.Errorf("%s %s: got %q, %v; want %s", network, to, who, err, want)
			}
		}
	}
	check(l.outside, "192.168.50.1:8080", "address")
	check(l.node, "192.168.50.1:8080", "address")
	check(l.node, "127.0.0.1:8080", "loopback")
	check(l.node, "10.244.1.1:8080", "every")
	check(pods["every"], "10.244.1.1:8080", "every")
	if _, err := l.call(Name, "ADD", "other", nettest.New(t).Path(), ports(PortMapping{HostPort: 8080, ContainerPort: 1, Protocol: "TCP"})); err == nil {
		t.Error("two pods got the same host port")
	}
	l.must(l.call(Name, "DEL", "other", "", nil))
	check(l.node, "10.244.1.1:8080", "every")
	l.must(l.call(Name, "DEL", "address", pods["address"].Path(), nil))
	check(l.outside, "192.168.50.1:8080", "every")
	l.must(l.call(Name, "DEL", "every", pods["every"].Path(), nil))
	if _, _, err := l.outside.Ask("tcp", "192.168.50.1:8080"); err == nil {
		t.Error("a host port answers after its pod is gone")
	}
}

func TestCollect(t *testing.T) {
	l := newLab(t, "10.244.1.0/24")
	a, b := nettest.New(t), nettest.New(t)
	l.add("a", a, nil)
	l.add("b", b, nil)
	l.must(l.call(Name, "GC", "", "", map[string]any{"cni.dev/valid-attachments": []map[string]string{{"containerID": "a", "ifname": "eth0"}}}))
	if _, err := a.LinkByName("eth0"); err != nil {
		t.Errorf("GC took the interface of a valid pod: %v", err)
	}
	if _, err := b.LinkByName("eth0"); err == nil {
		t.Error("GC left the interface of a pod that is gone")
	}
}

func TestManyAtOnce(t *testing.T) {
	l := newLab(t, "10.244.1.0/27")
	var wg sync.WaitGroup
	addrs := make([]string, 29)
	for i := range addrs {
		pod := nettest.New(t)
		wg.Go(func() {
			out, err := l.call(Name, "ADD", fmt.Sprint(i), pod.Path(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			r := &current.Result{}
			if err := json.Unmarshal(out, r); err == nil {
				addrs[i] = address(r, 0)
			}
		})
	}
	wg.Wait()
	slices.Sort(addrs)
	if n := len(slices.Compact(addrs)); n != 29 {
		t.Errorf("29 pods have %d addresses", n)
	}
	if _, err := l.call(Name, "ADD", "late", nettest.New(t).Path(), nil); err == nil {
		t.Error("a pod got an address of a full range")
	}
}

// TestKilled kills the plugin at all stages and checks that DEL leaves nothing
// and ADD works again.
func TestKilled(t *testing.T) {
	l := newLab(t, "10.244.1.0/24")
	pod := nettest.New(t)
	mapping := ports(PortMapping{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"})
	for i := range 30 {
		cmd := l.command(Name, "ADD", "a", pod.Path(), mapping)
		l.node.Do(func() {
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			timer := time.AfterFunc(time.Duration(i)*time.Millisecond, func() { _ = cmd.Process.Kill() })
			_ = cmd.Wait()
			timer.Stop()
		})
		if i%2 == 0 {
			l.must(l.call(Name, "DEL", "a", pod.Path(), mapping))
			links, err := l.node.LinkList()
			l.must(nil, err)
			if len(links) != 3 {
				t.Fatalf("interfaces remain: %v", links)
			}
		}
	}
	l.add("a", pod, mapping)
	a, err := openAllocations(filepath.Join(l.dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	if len(a.Attachments) != 1 {
		t.Errorf("%d attachments recorded for one pod", len(a.Attachments))
	}
}

func TestAddresses(t *testing.T) {
	dir := t.TempDir()
	r := []Range{{Subnet: netip.MustParsePrefix("10.0.0.0/29"), Gateway: netip.MustParseAddr("10.0.0.1")}}
	gone := map[string]bool{}
	take := func(key string) string {
		a, err := openAllocations(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer a.close()
		at, err := a.take(key, key, r, func(ns string) bool { return !gone[ns] })
		if err != nil {
			return "full"
		}
		if err := a.save(); err != nil {
			t.Fatal(err)
		}
		return at.Addrs[0].String()
	}
	for i, want := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "full"} {
		if got := take(fmt.Sprint(i)); got != want {
			t.Errorf("pod %d gets %s, want %s", i, got, want)
		}
	}
	gone["3"] = true
	if got := take("new"); got != "10.0.0.5" {
		t.Errorf("after a namespace has gone: got %s, want its address", got)
	}
	// A record of an earlier boot counts for nothing, even a torn one.
	old := filepath.Join(dir, "boot-0.json")
	if err := os.WriteFile(old, []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "boot-*-*.json"))
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	// The first address after the record is lost.
	if got := take("first"); got != "10.0.0.2" {
		t.Errorf("after a boot: got %s", got)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("the record of an earlier boot is still there")
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, c := range []string{``, `{`, `{}`, `{"bridge":"b"}`, `{"bridge":"b","dataDir":"d"}`, `{"bridge":"b","dataDir":"d","ranges":[{}]}`,
		`{"bridge":"b","dataDir":"d","ranges":[{"subnet":"10.0.0.0/24","gateway":"10.0.1.1"}]}`} {
		if _, err := parse([]byte(c)); err == nil {
			t.Errorf("%q is accepted", c)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","bridge":"b","dataDir":"d","ranges":[{"subnet":"10.0.0.0/24","gateway":"10.0.0.1"}],"runtimeConfig":{"portMappings":[{"hostPort":1}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse(data)
		if err == nil && (c.Bridge == "" || len(c.Ranges) == 0) {
			t.Errorf("incomplete configuration accepted: %s", data)
		}
	})
}
