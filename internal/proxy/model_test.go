package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func state(ready, serving, terminating bool) func(*discoveryv1.Endpoint) {
	return func(e *discoveryv1.Endpoint) {
		e.Conditions = discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
	}
}

func zones(names ...string) func(*discoveryv1.Endpoint) {
	return func(e *discoveryv1.Endpoint) {
		if e.Hints == nil {
			e.Hints = &discoveryv1.EndpointHints{}
		}
		for _, n := range names {
			e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: n})
		}
	}
}

func nodes(names ...string) func(*discoveryv1.Endpoint) {
	return func(e *discoveryv1.Endpoint) {
		if e.Hints == nil {
			e.Hints = &discoveryv1.EndpointHints{}
		}
		for _, n := range names {
			e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: n})
		}
	}
}

func TestWhichEndpoints(t *testing.T) {
	draining, dead, notReady := state(false, true, true), state(false, false, true), state(false, false, false)
	for _, c := range []struct {
		name       string
		endpoints  []discoveryv1.Endpoint
		wide, here []int
	}{
		{name: "none"},
		{name: "ready ones", endpoints: []discoveryv1.Endpoint{on("here", 0), on("there", 1), on("there", 2, notReady)}, wide: []int{0, 1}, here: []int{0}},
		{name: "conditions unset", endpoints: []discoveryv1.Endpoint{on("here", 0, func(e *discoveryv1.Endpoint) { e.Conditions = discoveryv1.EndpointConditions{} })}, wide: []int{0}, here: []int{0}},
		{name: "terminating beside ready", endpoints: []discoveryv1.Endpoint{on("here", 0, draining), on("there", 1)}, wide: []int{1}, here: []int{0}},
		{name: "only terminating", endpoints: []discoveryv1.Endpoint{on("here", 0, draining), on("there", 1, draining), on("there", 2, dead)}, wide: []int{0, 1}, here: []int{0}},
		{name: "no node name", endpoints: []discoveryv1.Endpoint{on("here", 0, func(e *discoveryv1.Endpoint) { e.NodeName = nil })}, wide: []int{0}},
		{name: "zone", endpoints: []discoveryv1.Endpoint{on("here", 0, zones("a")), on("there", 1, zones("b"))}, wide: []int{0}, here: []int{0}},
		{name: "zone without endpoint", endpoints: []discoveryv1.Endpoint{on("here", 0, zones("c")), on("there", 1, zones("b"))}, wide: []int{0, 1}, here: []int{0}},
		{name: "one without hint", endpoints: []discoveryv1.Endpoint{on("here", 0, zones("a")), on("there", 1)}, wide: []int{0, 1}, here: []int{0}},
		{name: "unready without hint", endpoints: []discoveryv1.Endpoint{on("here", 0, zones("a")), on("there", 1, zones("b")), on("there", 2, notReady)}, wide: []int{0}, here: []int{0}},
		{name: "same node", endpoints: []discoveryv1.Endpoint{on("here", 0, nodes("here"), zones("a")), on("there", 1, nodes("there"), zones("a"))}, wide: []int{0}, here: []int{0}},
		{name: "same node has none, zone has", endpoints: []discoveryv1.Endpoint{on("there", 0, nodes("there"), zones("a")), on("far", 1, nodes("far"), zones("b"))}, wide: []int{0}},
		{name: "local ones ignore hints", endpoints: []discoveryv1.Endpoint{on("here", 0, zones("b")), on("there", 1, zones("a"))}, wide: []int{1}, here: []int{0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &node{name: "here", zone: "a"}
			svc := service("web", "10.96.0.1")
			all := n.collect(&svc.Spec.Ports[0], discoveryv1.AddressTypeIPv4, []*discoveryv1.EndpointSlice{slice(svc, discoveryv1.AddressTypeIPv4, c.endpoints...)})
			if got := pods(n.usable(all)); !slices.Equal(got, c.wide) {
				t.Errorf("in the cluster: got %v, want %v", got, c.wide)
			}
			if got := pods(usableHere(all)); !slices.Equal(got, c.here) {
				t.Errorf("on the node: got %v, want %v", got, c.here)
			}
		})
	}
}

func pods(list []endpoint) []int {
	var out []int
	for _, e := range list {
		out = append(out, int(e.addr.Addr().As4()[3])-2)
	}
	return out
}

func TestEndpointInTwoSlices(t *testing.T) {
	n := &node{name: "here"}
	svc := service("web", "10.96.0.1")
	stale := slice(svc, discoveryv1.AddressTypeIPv4, on("here", 0, state(false, false, false)))
	fresh := slice(svc, discoveryv1.AddressTypeIPv4, on("here", 0))
	for _, order := range [][]*discoveryv1.EndpointSlice{{stale, fresh}, {fresh, stale}} {
		if got := n.usable(n.collect(&svc.Spec.Ports[0], discoveryv1.AddressTypeIPv4, order)); len(got) != 1 {
			t.Errorf("got %d endpoints, want the one that one slice calls ready", len(got))
		}
	}
}

// describe writes a part's TCP front ends as "address -> chain: rules".
func describe(p *part) string {
	if p == nil {
		return ""
	}
	names := map[op]string{markOutsiders: "mark-outsiders", mark: "mark", podsTo: "pods-to", nodeTo: "node-to", fromTo: "from", to: "to", resume: "resume", spread: "spread", spreadSticky: "spread-sticky", first: "first"}
	short := func(chain string) string { return strings.Replace(chain, "/default/web/tcp/80", "", 1) }
	var lines []string
	for k, target := range p.elements {
		if k.proto == protoTCP {
			a := "node"
			if k.in == services {
				a = k.addr.String()
			}
			lines = append(lines, fmt.Sprintf("%s:%d -> %s", a, k.port, short(target)))
		}
	}
	for name, c := range p.chains {
		if !strings.Contains(name, "/tcp/") {
			continue
		}
		var rules []string
		for _, r := range c.rules {
			s := names[r.op]
			if r.prefix.IsValid() {
				s += " " + r.prefix.String()
			}
			if r.target != "" {
				s += " " + short(r.target)
			}
			if r.n != 0 {
				s += fmt.Sprintf(" %d", r.n)
			}
			rules = append(rules, s)
		}
		lines = append(lines, short(name)+": "+strings.Join(rules, ", "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestCompute(t *testing.T) {
	balancer := func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.Ports[0].NodePort = 30080
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
	}
	local := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	internal := func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	}
	for _, c := range []struct {
		name      string
		svc       *corev1.Service
		endpoints []discoveryv1.Endpoint
		want      string
	}{
		{"cluster address", service("web", "10.96.0.1"), []discoveryv1.Endpoint{on("here", 0), on("there", 1)}, `
10.96.0.1:80 -> cluster
cluster: mark-outsiders, spread 2, first`},
		{"no endpoints", service("web", "10.96.0.1", balancer), nil, `
10.96.0.1:80 -> reject
203.0.113.9:80 -> reject
node:30080 -> reject`},
		{"headless", service("web", "None"), []discoveryv1.Endpoint{on("here", 0)}, ``},
		{"external name", service("web", "", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }), nil, ``},
		{"another proxy's", service("web", "10.96.0.1", func(s *corev1.Service) {
			s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "mesh"}
		}), []discoveryv1.Endpoint{on("here", 0)}, ``},
		{"headless by label", service("web", "10.96.0.1", func(s *corev1.Service) {
			s.Labels = map[string]string{"service.kubernetes.io/headless": ""}
		}), []discoveryv1.Endpoint{on("here", 0)}, ``},
		{"load balancer", service("web", "10.96.0.1", balancer), []discoveryv1.Endpoint{on("here", 0)}, `
10.96.0.1:80 -> cluster
203.0.113.9:80 -> external
cluster: mark-outsiders, spread 1, first
external: mark, to cluster
node:30080 -> external`},
		{"load balancer that is a proxy", service("web", "10.96.0.1", balancer, func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress[0].IPMode = ptr.To(corev1.LoadBalancerIPModeProxy)
		}), []discoveryv1.Endpoint{on("here", 0)}, `
10.96.0.1:80 -> cluster
cluster: mark-outsiders, spread 1, first
external: mark, to cluster
node:30080 -> external`},
		{"source ranges", service("web", "10.96.0.1", balancer, func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = []string{"198.51.100.7/24", "fd00::/8"}
		}), []discoveryv1.Endpoint{on("here", 0)}, `
10.96.0.1:80 -> cluster
203.0.113.9:80 -> firewall
cluster: mark-outsiders, spread 1, first
external: mark, to cluster
firewall: from 198.51.100.0/24 external, to drop
node:30080 -> external`},
		{"external traffic stays", service("web", "10.96.0.1", balancer, local), []discoveryv1.Endpoint{on("here", 0), on("there", 1)}, `
10.96.0.1:80 -> cluster
203.0.113.9:80 -> external
cluster: mark-outsiders, spread 2, first
external: pods-to cluster, node-to cluster, to local
local: spread 1, first
node:30080 -> external`},
		{"external traffic has nowhere to stay", service("web", "10.96.0.1", balancer, local), []discoveryv1.Endpoint{on("there", 1)}, `
10.96.0.1:80 -> cluster
203.0.113.9:80 -> external
cluster: mark-outsiders, spread 1, first
external: pods-to cluster, node-to cluster, to drop
node:30080 -> external`},
		{"internal traffic stays", service("web", "10.96.0.1", internal), []discoveryv1.Endpoint{on("here", 0), on("there", 1)}, `
10.96.0.1:80 -> local
local: spread 1, first`},
		{"internal traffic has nowhere to stay", service("web", "10.96.0.1", internal), []discoveryv1.Endpoint{on("there", 1)}, `
10.96.0.1:80 -> drop`},
		{"affinity", service("web", "10.96.0.1", func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](60)}}
		}), []discoveryv1.Endpoint{on("here", 0), on("there", 1)}, `
10.96.0.1:80 -> cluster/60s
cluster/60s: mark-outsiders, resume, spread-sticky 2, spread 2, first`},
		{"other family", service("web", "fd00::1"), []discoveryv1.Endpoint{on("here", 0)}, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &node{name: "here"}
			p := n.compute(c.svc, []*discoveryv1.EndpointSlice{slice(c.svc, discoveryv1.AddressTypeIPv4, c.endpoints...)}, discoveryv1.AddressTypeIPv4, nil)
			if got, want := describe(p), strings.TrimPrefix(c.want, "\n"); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestAssign(t *testing.T) {
	at := func(list ...int) []netip.AddrPort {
		var out []netip.AddrPort
		for _, i := range list {
			out = append(out, netip.AddrPortFrom(podAddr(i), 80))
		}
		return out
	}
	for _, c := range []struct{ previous, want, slots []netip.AddrPort }{
		{nil, nil, at()},
		{nil, at(2, 1), at(1, 2)},
		{at(1, 2, 3), at(3, 2, 1), at(1, 2, 3)},
		{at(1, 2, 3), at(1, 3), at(1, 3)},
		{at(1, 2, 3), at(2, 3), at(3, 2)},
		{at(1, 2), at(1, 2, 0), at(1, 2, 0)},
		{at(1, 2), at(4, 5), at(4, 5)},
	} {
		if got := assign(c.previous, c.want); !slices.Equal(got, c.slots) {
			t.Errorf("assign(%v, %v) = %v, want %v", c.previous, c.want, got, c.slots)
		}
	}
}

func name(n string) types.NamespacedName {
	return types.NamespacedName{Namespace: "default", Name: n}
}

// TestOneEndpointChangesOneElement is the promise that the cost of a change
// does not depend on how many endpoints or Services there are.
func TestOneEndpointChangesOneElement(t *testing.T) {
	n, tab := &node{name: "here"}, newTable()
	svc := service("web", "10.96.0.1")
	svc.Spec.Ports = svc.Spec.Ports[:1]
	var eps []discoveryv1.Endpoint
	for i := range 200 {
		eps = append(eps, on("there", i))
	}
	set := func(eps []discoveryv1.Endpoint) *change {
		p := n.compute(svc, []*discoveryv1.EndpointSlice{slice(svc, discoveryv1.AddressTypeIPv4, eps...)}, discoveryv1.AddressTypeIPv4, tab.parts[name("web")])
		return tab.update(map[types.NamespacedName]*part{name("web"): p})
	}
	set(eps)
	replaced := slices.Clone(eps)
	replaced[100] = on("there", 250)
	c := set(replaced)
	if len(c.altered) != 1 || len(c.altered[0].slots) != 1 || c.altered[0].rewrite || len(c.created)+len(c.deleted)+len(c.added)+len(c.removed) != 0 {
		t.Errorf("replacing one of 200 endpoints: %+v", c)
	}
	c = set(replaced[1:])
	if len(c.altered) != 1 || len(c.altered[0].slots) > 2 || !c.altered[0].rewrite {
		t.Errorf("removing one of 200 endpoints changes slots %v", c.altered[0].slots)
	}
	if c = set(replaced[1:]); !c.empty() {
		t.Errorf("changing nothing: %+v", c)
	}
}

func TestSharedAddress(t *testing.T) {
	n, tab := &node{name: "here"}, newTable()
	with := func(svc *corev1.Service, present bool) *change {
		var p *part
		if present {
			p = n.compute(svc, []*discoveryv1.EndpointSlice{slice(svc, discoveryv1.AddressTypeIPv4, on("here", 0))}, discoveryv1.AddressTypeIPv4, nil)
		}
		return tab.update(map[types.NamespacedName]*part{name(svc.Name): p})
	}
	shared := key{in: services, addr: netip.MustParseAddr("203.0.113.9"), proto: protoTCP, port: 80}
	external := func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.9"} }
	b := service("b", "10.96.0.2", external)
	a := service("a", "10.96.0.1", external)
	with(b, true)
	c := with(a, true)
	if !slices.Contains(c.added, element{shared, "external/default/a/tcp/80"}) || !slices.Contains(c.removed, element{shared, "external/default/b/tcp/80"}) {
		t.Errorf("a service with a smaller name takes a shared address over: %+v", c)
	}
	c = with(a, false)
	if !slices.Contains(c.added, element{shared, "external/default/b/tcp/80"}) {
		t.Errorf("the other service gets it back: %+v", c)
	}
	with(b, false)
	if len(tab.claims) != 0 {
		t.Errorf("claims remain: %v", tab.claims)
	}
}

// TestUpdatesAddUpToWhole applies many changes and checks that they lead to the
// same as making the table at once, without a step that the kernel would refuse.
func TestUpdatesAddUpToWhole(t *testing.T) {
	n, tab := &node{name: "here"}, newTable()
	chains, elements := map[string]chain{}, map[key]string{}
	for step := range 300 {
		i := step * 7 % 5
		svc := service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.96.0.%d", i), func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"203.0.113.9"}
			if step%3 == 0 {
				s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			}
			if step%4 == 0 {
				s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
			}
		})
		var eps []discoveryv1.Endpoint
		for e := range step * 13 % 6 {
			eps = append(eps, on([]string{"here", "there"}[(e+step)%2], (e*step)%11))
		}
		var p *part
		if step%11 != 0 {
			p = n.compute(svc, []*discoveryv1.EndpointSlice{slice(svc, discoveryv1.AddressTypeIPv4, eps...)}, discoveryv1.AddressTypeIPv4, tab.parts[name(svc.Name)])
		}
		replay(t, chains, elements, tab.update(map[types.NamespacedName]*part{name(svc.Name): p}))
	}
	wantChains, wantElements := map[string]chain{}, map[key]string{}
	replay(t, wantChains, wantElements, tab.whole())
	if !reflect.DeepEqual(chains, wantChains) || !maps.Equal(elements, wantElements) {
		t.Errorf("got %v %v\nwant %v %v", chains, elements, wantChains, wantElements)
	}
}

// replay does with maps what the kernel does with a change, and is as strict.
func replay(t *testing.T, chains map[string]chain, elements map[key]string, c *change) {
	t.Helper()
	for _, n := range c.created {
		if _, exists := chains[n.name]; exists {
			t.Fatalf("chain %s made twice", n.name)
		}
		for _, c := range chains {
			if c.id == n.id {
				t.Fatalf("chain %s has the number of another", n.name)
			}
		}
		chains[n.name] = *n.chain
	}
	for _, a := range c.altered {
		have, ok := chains[a.name]
		if !ok {
			t.Fatalf("chain %s changed before it was made", a.name)
		}
		if have.id != a.id {
			t.Fatalf("chain %s got another number", a.name)
		}
		slots := slices.Grow(slices.Clone(have.slots), len(a.chain.slots))[:max(len(have.slots), len(a.chain.slots))]
		for _, i := range a.slots {
			slots[i] = netip.AddrPort{}
			if i < len(a.chain.slots) {
				slots[i] = a.chain.slots[i]
			}
		}
		have.slots = slots[:len(a.chain.slots)]
		if a.rewrite {
			have.rules = a.rules
		}
		chains[a.name] = have
	}
	for _, e := range c.removed {
		if have, ok := elements[e.key]; !ok || have != e.target {
			t.Fatalf("element %v removed, but there is %q", e, have)
		}
		delete(elements, e.key)
	}
	for _, e := range c.added {
		if _, exists := elements[e.key]; exists {
			t.Fatalf("element %v added twice", e)
		}
		if _, ok := chains[e.target]; !ok && e.target != "" && e.target != chainReject && e.target != chainDrop {
			t.Fatalf("element %v leads to no chain", e)
		}
		elements[e.key] = e.target
	}
	for _, n := range c.deleted {
		delete(chains, n.name)
	}
	for k, target := range elements {
		if _, ok := chains[target]; !ok && target != "" && target != chainReject && target != chainDrop {
			t.Fatalf("element %v leads to %q, which is deleted", k, target)
		}
	}
}

func TestPrefixElements(t *testing.T) {
	for _, c := range []struct{ prefix, last string }{
		{"10.244.0.0/16", "10.244.255.255"}, {"10.0.0.7/32", "10.0.0.7"}, {"0.0.0.0/0", "255.255.255.255"}, {"fd00::/64", "fd00::ffff:ffff:ffff:ffff"},
	} {
		if got := lastOf(netip.MustParsePrefix(c.prefix)); got.String() != c.last {
			t.Errorf("last address of %s: got %s, want %s", c.prefix, got, c.last)
		}
	}
	if got := prefixElements(prefixes("0.0.0.0/0")); len(got) != 1 {
		t.Errorf("a range up to the last address has no end: got %d elements", len(got))
	}
}

func BenchmarkComputeOneOfThousand(b *testing.B) {
	n := &node{name: "here"}
	svc := service("web", "10.96.0.1")
	var eps []discoveryv1.Endpoint
	for i := range 1000 {
		e := on("there", 0)
		e.Addresses = []string{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}).String()}
		eps = append(eps, e)
	}
	s := []*discoveryv1.EndpointSlice{slice(svc, discoveryv1.AddressTypeIPv4, eps...)}
	p := n.compute(svc, s, discoveryv1.AddressTypeIPv4, nil)
	for b.Loop() {
		p = n.compute(svc, s, discoveryv1.AddressTypeIPv4, p)
	}
}
