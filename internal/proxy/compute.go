package proxy

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// node is what the computation knows about the node it is done for.
type node struct {
	name, zone string
}

// IANA protocol numbers.
const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

// compute returns what svc with the given slices adds to the table of one IP
// family, or nil for nothing. It depends on nothing but its arguments; previous
// is its result before, from which endpoints keep their slots.
func (n *node) compute(svc *corev1.Service, epSlices []*discoveryv1.EndpointSlice, family discoveryv1.AddressType, previous *part) *part {
	if !proxied(svc) {
		return nil
	}
	f := &frontends{node: n, svc: svc, family: family, previous: previous, part: &part{
		chains:    map[string]*chain{},
		elements:  map[key]string{},
		datagrams: map[key][]netip.AddrPort{},
	}}
	f.gather()
	if len(f.cluster) == 0 {
		return nil // Not a Service of this family.
	}
	for i := range svc.Spec.Ports {
		f.port(&svc.Spec.Ports[i], epSlices)
	}
	return f.part
}

// proxied tells Services that have virtual addresses from those that have none
// or that someone else serves.
func proxied(svc *corev1.Service) bool {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "" {
		return false
	}
	return !foreign(svc.Labels)
}

// foreign says whether labels give an object to another proxy (KEP-2447) or
// mark it as headless.
func foreign(labels map[string]string) bool {
	_, other := labels["service.kubernetes.io/service-proxy-name"]
	_, headless := labels[corev1.IsHeadlessService]
	return other || headless
}

// frontends computes the part of one Service.
type frontends struct {
	node     *node
	svc      *corev1.Service
	family   discoveryv1.AddressType
	previous *part
	part     *part

	cluster, external, balancer []netip.Addr
	sources                     []netip.Prefix
}

func (f *frontends) gather() {
	s := f.svc
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	f.cluster = f.addrs(ips)
	f.external = f.addrs(s.Spec.ExternalIPs)
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		var ips []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if value(in.IPMode, corev1.LoadBalancerIPModeVIP) == corev1.LoadBalancerIPModeVIP {
				ips = append(ips, in.IP)
			}
		}
		f.balancer = f.addrs(ips)
		for _, r := range s.Spec.LoadBalancerSourceRanges {
			if p, err := netip.ParsePrefix(r); err == nil && f.is(p.Addr()) {
				f.sources = append(f.sources, p.Masked())
			}
		}
	}
}

func (f *frontends) is(a netip.Addr) bool {
	return a.Is4() == (f.family == discoveryv1.AddressTypeIPv4)
}

func (f *frontends) addrs(in []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range in {
		if a, err := netip.ParseAddr(s); err == nil && f.is(a) {
			out = append(out, a)
		}
	}
	return out
}

func (f *frontends) port(p *corev1.ServicePort, epSlices []*discoveryv1.EndpointSlice) {
	spec := &f.svc.Spec
	name, number := protocol(p.Protocol)
	if number == 0 {
		return
	}
	suffix := f.svc.Namespace + "/" + f.svc.Name + "/" + name + "/" + strconv.Itoa(int(p.Port))
	nodePort := spec.Type != corev1.ServiceTypeClusterIP && p.NodePort != 0
	outside := nodePort || len(f.external) > 0 || len(f.balancer) > 0
	internalLocal := value(spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster) == corev1.ServiceInternalTrafficPolicyLocal
	externalLocal := spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal

	all := f.node.collect(p, f.family, epSlices)
	clusterChain, localChain := chainReject, chainReject
	var clusterWide, here []endpoint
	if !internalLocal || outside {
		clusterWide = f.node.usable(all)
		clusterChain = f.balanced("cluster/"+suffix, clusterWide, true)
	}
	if internalLocal || externalLocal && outside {
		here = usableHere(all)
		localChain = f.balanced("local/"+suffix, here, false)
		if len(here) == 0 && len(f.node.usable(all)) > 0 {
			// Endpoints elsewhere exist, but the policy forbids them.
			localChain = chainDrop
		}
	}

	inside, insideEndpoints := clusterChain, clusterWide
	if internalLocal {
		inside, insideEndpoints = localChain, here
	}
	for _, a := range f.cluster {
		f.front(key{in: services, addr: a, proto: number, port: uint16(p.Port)}, inside, insideEndpoints)
		f.part.elements[key{in: clusterIPs, addr: a}] = ""
	}
	if !outside {
		return
	}

	door, doorEndpoints := f.door("external/"+suffix, clusterChain, localChain, externalLocal), clusterWide
	if externalLocal {
		doorEndpoints = slices.Concat(clusterWide, here)
	}
	for _, a := range f.external {
		f.front(key{in: services, addr: a, proto: number, port: uint16(p.Port)}, door, doorEndpoints)
	}
	if nodePort {
		f.front(key{in: nodePorts, proto: number, port: uint16(p.NodePort)}, door, doorEndpoints)
	}
	guarded := f.guard("firewall/"+suffix, door)
	for _, a := range f.balancer {
		f.front(key{in: services, addr: a, proto: number, port: uint16(p.Port)}, guarded, doorEndpoints)
	}
}

// front sends what arrives at k to chain.
func (f *frontends) front(k key, chain string, endpoints []endpoint) {
	f.part.elements[k] = chain
	if k.proto != protoUDP {
		return
	}
	list := make([]netip.AddrPort, len(endpoints))
	for i := range endpoints {
		list[i] = endpoints[i].addr
	}
	f.part.datagrams[k] = list
}

// balanced makes the chain that spreads over endpoints and returns its name,
// or the chain that refuses when there are none.
func (f *frontends) balanced(name string, endpoints []endpoint, outsiders bool) string {
	if len(endpoints) == 0 {
		return chainReject
	}
	want := make([]netip.AddrPort, len(endpoints))
	for i := range endpoints {
		e := &endpoints[i]
		want[i] = e.addr
		if e.local {
			f.part.elements[key{in: hairpins, addr: e.addr.Addr()}] = ""
		}
	}
	var affinity time.Duration
	if f.svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		affinity = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
		if c := f.svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	if affinity > 0 {
		// Part of the name: the clients of another time are another chain's.
		name += "/" + strconv.Itoa(int(affinity.Seconds())) + "s"
	}
	var before *chain
	if f.previous != nil {
		before = f.previous.chains[name]
	}
	f.part.chains[name] = balance(want, affinity, outsiders, before)
	return name
}

// door makes the chain for traffic that comes from outside the cluster. With
// the Cluster policy the source address is given up; with Local it is kept and
// only endpoints of this node serve, except that pods and the node itself, who
// know no better, get any endpoint.
func (f *frontends) door(name, clusterChain, localChain string, local bool) string {
	if clusterChain == chainReject {
		return chainReject
	}
	rules := []rule{{op: mark}, {op: to, target: clusterChain}}
	if local {
		rules = []rule{{op: podsTo, target: clusterChain}, {op: nodeTo, target: clusterChain}, {op: to, target: localChain}}
	}
	f.part.chains[name] = &chain{rules: rules}
	return name
}

// guard makes the chain that lets only spec.loadBalancerSourceRanges in.
func (f *frontends) guard(name, behind string) string {
	if len(f.svc.Spec.LoadBalancerSourceRanges) == 0 || len(f.balancer) == 0 || behind == chainReject {
		return behind
	}
	var rules []rule
	for _, p := range f.sources {
		rules = append(rules, rule{op: fromTo, prefix: p, target: behind})
	}
	f.part.chains[name] = &chain{rules: append(rules, rule{op: to, target: chainDrop})}
	return name
}

// localReady returns how many ready endpoints of svc are on this node, for the
// health check of its node port.
func (n *node) localReady(svc *corev1.Service, epSlices []*discoveryv1.EndpointSlice) int {
	seen := map[netip.Addr]bool{}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			for _, e := range n.collect(p, family, epSlices) {
				if e.local && e.ready {
					seen[e.addr.Addr()] = true
				}
			}
		}
	}
	return len(seen)
}

func protocol(p corev1.Protocol) (name string, number uint8) {
	switch p {
	case corev1.ProtocolTCP, "":
		return "tcp", protoTCP
	case corev1.ProtocolUDP:
		return "udp", protoUDP
	case corev1.ProtocolSCTP:
		return "sctp", protoSCTP
	}
	return "", 0
}
