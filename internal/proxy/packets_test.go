package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"skiff/internal/network/nettest"
)

// A lab is a node between three pods and a machine outside.
//
//	pods 10.244.1.2-4, fd00:1::2-4 ── node 10.244.1.1, 192.168.50.1 ── outside 192.168.50.2
type lab struct {
	*testing.T
	node, outside *nettest.NS
	pods          []*nettest.NS
	proxy         *Proxy
}

func newLab(t *testing.T) *lab {
	l := &lab{T: t, node: nettest.New(t), outside: nettest.New(t)}
	nettest.Cable(
		nettest.Link{NS: l.node, Name: "uplink", Addrs: prefixes("192.168.50.1/24", "fd00:50::1/64")},
		nettest.Link{NS: l.outside, Name: "eth0", Addrs: prefixes("192.168.50.2/24", "fd00:50::2/64")})
	for _, dst := range prefixes("10.96.0.0/16", "10.244.0.0/16") {
		l.outside.Route(dst, netip.MustParseAddr("192.168.50.1"), "eth0")
	}
	for i := range 3 {
		pod := nettest.New(t)
		host := fmt.Sprintf("pod%d", i)
		v4, v6 := podAddr(i), netip.MustParseAddr(fmt.Sprintf("fd00:1::%d", i+2))
		nettest.Cable(
			nettest.Link{NS: l.node, Name: host, Addrs: prefixes("10.244.1.1/32", "fd00:1::1/128")},
			nettest.Link{NS: pod, Name: "eth0", Addrs: []netip.Prefix{netip.PrefixFrom(v4, 32), netip.PrefixFrom(v6, 128)}})
		l.node.Route(netip.PrefixFrom(v4, 32), netip.Addr{}, host)
		l.node.Route(netip.PrefixFrom(v6, 128), netip.Addr{}, host)
		pod.Route(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.244.1.1"), "eth0")
		pod.Route(netip.MustParsePrefix("::/0"), netip.MustParseAddr("fd00:1::1"), "eth0")
		l.pods = append(l.pods, pod)
	}
	// Processes on the node need some route to cluster addresses.
	l.node.Route(netip.MustParsePrefix("10.96.0.0/16"), netip.Addr{}, "uplink")
	l.node.Sysctl("ipv4/ip_forward", "1")
	l.node.Sysctl("ipv6/conf/all/forwarding", "1")
	l.proxy = New(Config{
		NodeName:     "here",
		NodeIPs:      []netip.Addr{netip.MustParseAddr("192.168.50.1"), netip.MustParseAddr("fd00:50::1")},
		ClusterCIDRs: prefixes("10.244.0.0/16", "fd00:1::/64"),
		Log:          slog.New(slog.DiscardHandler),
		NetNS:        l.node.FD(),
	})
	for i, pod := range l.pods {
		for _, addr := range []string{podAddr(i).String(), fmt.Sprintf("[fd00:1::%d]", i+2)} {
			pod.ServeTCP(addr+":8080", fmt.Sprintf("pod%d", i))
			pod.ServeUDP(addr+":8080", fmt.Sprintf("pod%d", i))
		}
	}
	return l
}

func podAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 2)}) }

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// set gives the proxy a Service with the given endpoints and waits for the
// kernel to have it.
func (l *lab) set(svc *corev1.Service, eps ...discoveryv1.Endpoint) {
	l.Helper()
	l.proxy.service(svc, false)
	l.proxy.slice(slice(svc, discoveryv1.AddressTypeIPv4, eps...), false)
	l.sync()
}

func (l *lab) sync() {
	l.Helper()
	front, err := l.proxy.sync()
	if err != nil {
		l.Fatal(err)
	}
	if front != nil {
		l.proxy.forget(front)
	}
}

// ask asks several times and returns how often each pod answered and which
// sources they saw.
func (l *lab) ask(from *nettest.NS, network, to string) (who, seen map[string]int) {
	l.Helper()
	who, seen = map[string]int{}, map[string]int{}
	for range 24 {
		w, s, err := from.Ask(network, to)
		if err != nil {
			l.Fatalf("%s %s: %v", network, to, err)
		}
		who[w]++
		seen[s]++
	}
	return who, seen
}

func (l *lab) refused(from *nettest.NS, to string) {
	l.Helper()
	if _, _, err := from.Ask("tcp", to); !errors.Is(err, syscall.ECONNREFUSED) {
		l.Errorf("%s: got %v, want connection refused", to, err)
	}
}

func service(name, ip string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type:      corev1.ServiceTypeClusterIP,
			ClusterIP: ip, ClusterIPs: []string{ip},
			Ports: []corev1.ServicePort{
				{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)},
				{Name: "quic", Port: 80, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(8080)},
			},
		},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func slice(svc *corev1.Service, family discoveryv1.AddressType, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name + "-" + string(family), Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}},
		AddressType: family,
		Endpoints:   eps,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](8080)},
			{Name: ptr.To("quic"), Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To[int32](8080)},
		},
	}
}

// on returns a ready endpoint for a pod, on the node of that name.
func on(node string, pod int, change ...func(*discoveryv1.Endpoint)) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{podAddr(pod).String()}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}
	for _, c := range change {
		c(&e)
	}
	return e
}

func TestClusterIP(t *testing.T) {
	l := newLab(t)
	svc := service("web", "10.96.0.1")
	l.set(svc, on("here", 0), on("here", 1))
	for _, network := range []string{"tcp", "udp"} {
		who, seen := l.ask(l.pods[2], network, "10.96.0.1:80")
		if len(who) != 2 || seen["10.244.1.4"] != 24 {
			t.Errorf("%s from a pod: answers %v, sources %v", network, who, seen)
		}
		if who, seen = l.ask(l.outside, network, "10.96.0.1:80"); len(who) != 2 || seen["192.168.50.2"] != 0 {
			t.Errorf("%s from outside: answers %v, sources %v, want the source masqueraded", network, who, seen)
		}
		if who, _ = l.ask(l.node, network, "10.96.0.1:80"); len(who) != 2 {
			t.Errorf("%s from the node: answers %v", network, who)
		}
	}
	// A pod that comes to itself must not see its own address as the source.
	l.set(svc, on("here", 0))
	if who, seen := l.ask(l.pods[0], "tcp", "10.96.0.1:80"); who["pod0"] != 24 || seen["10.244.1.2"] != 0 {
		t.Errorf("hairpin: answers %v, sources %v", who, seen)
	}
	for _, from := range []*nettest.NS{l.pods[0], l.node, l.outside} {
		l.refused(from, "10.96.0.1:81")
	}
	l.set(svc)
	for _, from := range []*nettest.NS{l.pods[0], l.node, l.outside} {
		l.refused(from, "10.96.0.1:80")
	}
	l.set(svc, on("here", 2))
	if who, _ := l.ask(l.pods[0], "tcp", "10.96.0.1:80"); who["pod2"] != 24 {
		t.Errorf("after endpoints have come back: answers %v", who)
	}
	l.proxy.service(svc, true)
	l.sync()
	if tables := len(l.proxy.tables[0].parts) + len(l.proxy.tables[0].claims); tables != 0 {
		t.Errorf("%d things remain of a deleted service", tables)
	}
}

func TestIPv6(t *testing.T) {
	l := newLab(t)
	svc := service("web", "fd00:96::1", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
	l.node.Route(netip.MustParsePrefix("fd00:96::/64"), netip.Addr{}, "uplink")
	l.proxy.service(svc, false)
	v6 := func(pod int) discoveryv1.Endpoint {
		e := on("here", pod)
		e.Addresses = []string{fmt.Sprintf("fd00:1::%d", pod+2)}
		return e
	}
	l.proxy.slice(slice(svc, discoveryv1.AddressTypeIPv6, v6(0), v6(1)), false)
	l.sync()
	for _, network := range []string{"tcp", "udp"} {
		if who, seen := l.ask(l.pods[2], network, "[fd00:96::1]:80"); len(who) != 1 || seen["fd00:1::4"] != 24 {
			t.Errorf("%s: answers %v, sources %v", network, who, seen)
		}
	}
	l.refused(l.pods[2], "[fd00:96::1]:81")
}

func TestNodePortAndLoadBalancer(t *testing.T) {
	l := newLab(t)
	svc := service("web", "10.96.0.1", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = 30080, 30080
		s.Spec.ExternalIPs = []string{"192.168.50.77"}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.168.50.1"}}
	})
	l.outside.Route(netip.MustParsePrefix("192.168.50.77/32"), netip.MustParseAddr("192.168.50.1"), "eth0")
	l.set(svc, on("here", 0), on("elsewhere", 1))
	for _, to := range []string{"192.168.50.1:30080", "192.168.50.1:80", "192.168.50.77:80"} {
		for _, network := range []string{"tcp", "udp"} {
			if who, seen := l.ask(l.outside, network, to); len(who) != 2 || seen["192.168.50.2"] != 0 {
				t.Errorf("%s %s from outside: answers %v, sources %v", network, to, who, seen)
			}
			if who, _ := l.ask(l.node, network, to); len(who) != 2 {
				t.Errorf("%s %s from the node: answers %v", network, to, who)
			}
			if who, _ := l.ask(l.pods[0], network, to); len(who) != 2 {
				t.Errorf("%s %s from a pod: answers %v", network, to, who)
			}
		}
	}

	local := svc.DeepCopy()
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	l.set(local, on("here", 0), on("elsewhere", 1))
	for _, to := range []string{"192.168.50.1:30080", "192.168.50.1:80", "192.168.50.77:80"} {
		if who, seen := l.ask(l.outside, "tcp", to); who["pod0"] != 24 || seen["192.168.50.2"] != 24 {
			t.Errorf("local policy, %s from outside: answers %v, sources %v, want the source kept", to, who, seen)
		}
		if who, _ := l.ask(l.pods[2], "tcp", to); len(who) != 2 {
			t.Errorf("local policy, %s from a pod: answers %v, want the whole service", to, who)
		}
		if who, _ := l.ask(l.node, "tcp", to); len(who) != 2 {
			t.Errorf("local policy, %s from the node: answers %v, want the whole service", to, who)
		}
	}

	ranges := svc.DeepCopy()
	ranges.Spec.LoadBalancerSourceRanges = []string{"192.168.50.2/32"}
	l.set(ranges, on("here", 0))
	l.ask(l.outside, "tcp", "192.168.50.1:80")
	ranges = ranges.DeepCopy()
	ranges.Spec.LoadBalancerSourceRanges = []string{"192.168.51.0/24"}
	l.set(ranges, on("here", 0))
	if _, _, err := l.outside.Ask("tcp", "192.168.50.1:80"); err == nil {
		t.Error("a client outside spec.loadBalancerSourceRanges was let in")
	}
	l.ask(l.outside, "tcp", "192.168.50.1:30080")
}

func TestInternalTrafficPolicyLocal(t *testing.T) {
	l := newLab(t)
	svc := service("dns", "10.96.0.10", func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	})
	l.set(svc, on("here", 1), on("elsewhere", 0))
	for _, from := range []*nettest.NS{l.pods[0], l.pods[1], l.node} {
		if who, _ := l.ask(from, "udp", "10.96.0.10:80"); who["pod1"] != 24 {
			t.Errorf("answers %v, want the node's own endpoint", who)
		}
	}
}

func TestSessionAffinity(t *testing.T) {
	l := newLab(t)
	svc := service("web", "10.96.0.1", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
	l.set(svc, on("here", 0), on("here", 1))
	who, _ := l.ask(l.pods[2], "tcp", "10.96.0.1:80")
	if len(who) != 1 {
		t.Fatalf("answers %v, want always the same", who)
	}
	kept := 0
	if who["pod1"] > 0 {
		kept = 1
	}
	l.set(svc, on("here", 0), on("here", 1), on("here", 2))
	if who, _ := l.ask(l.pods[2], "tcp", "10.96.0.1:80"); who[fmt.Sprintf("pod%d", kept)] != 24 {
		t.Errorf("after a new endpoint: answers %v, want pod%d as before", who, kept)
	}
	l.set(svc, on("here", 1-kept), on("here", 2))
	who, _ = l.ask(l.pods[2], "tcp", "10.96.0.1:80")
	if len(who) != 1 || who[fmt.Sprintf("pod%d", kept)] != 0 {
		t.Errorf("after the endpoint has gone: answers %v, want another one, always the same", who)
	}
}

func TestUDPFollowsEndpoints(t *testing.T) {
	l := newLab(t)
	svc := service("web", "10.96.0.1")
	l.set(svc, on("here", 0))
	c, err := l.pods[2].Dial("udp", "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if who, _, err := nettest.Ask(c); who != "pod0" {
		t.Fatalf("got %q, %v", who, err)
	}
	l.set(svc, on("here", 1))
	if who, _, err := nettest.Ask(c); who != "pod1" {
		t.Errorf("the same socket after its endpoint has gone: got %q, %v; want pod1", who, err)
	}
}

func TestConnectionsOutliveChanges(t *testing.T) {
	l := newLab(t)
	svc := service("web", "10.96.0.1")
	svc.Spec.Ports = svc.Spec.Ports[:1]
	l.set(svc, on("here", 0), on("here", 1))
	stop := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, _, err := l.pods[2].Ask("tcp", "10.96.0.1:80"); err != nil {
				failed <- err
				return
			}
		}
	}()
	for i := range 60 {
		l.set(svc, on("here", i%3), on("here", (i+1)%3))
		if i%10 == 5 {
			// As after a restart of the process.
			l.proxy.installed = false
			l.sync()
		}
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Errorf("a connection failed during changes: %v", err)
	}
}

func TestRepairsForeignChanges(t *testing.T) {
	l := newLab(t)
	svc := service("web", "10.96.0.1")
	l.set(svc, on("here", 0))
	if err := l.proxy.Cleanup(); err != nil {
		t.Fatal(err)
	}
	l.set(svc, on("here", 1))
	if who, _ := l.ask(l.pods[2], "tcp", "10.96.0.1:80"); who["pod1"] != 24 {
		t.Errorf("answers %v", who)
	}
}
