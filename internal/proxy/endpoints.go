package proxy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpoint is one address and port that a service port may send to.
type endpoint struct {
	addr netip.AddrPort
	// ready, serving and terminating are the conditions of the EndpointSlice
	// API with its defaults filled in.
	ready, serving, terminating bool
	// local says that it runs on this node.
	local bool
	// zones and nodes are the hints: where the endpoint should be used from.
	zones, nodes []string
}

// collect gathers the endpoints that slices hold for one port of a Service.
// While an endpoint moves from one slice to another it is in both; then the
// better condition counts.
func (n *node) collect(port *corev1.ServicePort, family discoveryv1.AddressType, epSlices []*discoveryv1.EndpointSlice) []endpoint {
	var out []endpoint
	index := map[netip.AddrPort]int{}
	proto := port.Protocol
	if proto == "" {
		proto = corev1.ProtocolTCP
	}
	for _, s := range epSlices {
		if s.AddressType != family {
			continue
		}
		for i := range s.Ports {
			p := &s.Ports[i]
			if p.Port == nil || value(p.Name, "") != port.Name || value(p.Protocol, corev1.ProtocolTCP) != proto {
				continue
			}
			for j := range s.Endpoints {
				e, ok := n.endpoint(&s.Endpoints[j], uint16(*p.Port))
				if !ok {
					continue
				}
				if at, seen := index[e.addr]; seen {
					if e.ready && !out[at].ready {
						out[at] = e
					}
					continue
				}
				index[e.addr] = len(out)
				out = append(out, e)
			}
		}
	}
	return out
}

func (n *node) endpoint(e *discoveryv1.Endpoint, port uint16) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		return endpoint{}, false
	}
	ready := value(e.Conditions.Ready, true)
	out := endpoint{
		addr:        netip.AddrPortFrom(addr, port),
		ready:       ready,
		serving:     value(e.Conditions.Serving, ready),
		terminating: value(e.Conditions.Terminating, false),
		local:       e.NodeName != nil && *e.NodeName == n.name,
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			out.zones = append(out.zones, z.Name)
		}
		for _, h := range e.Hints.ForNodes {
			out.nodes = append(out.nodes, h.Name)
		}
	}
	return out, true
}

// usable returns the endpoints that traffic may go to from anywhere in the
// cluster: the ready ones that the topology hints allow for this node, or,
// when nothing is ready, those that still serve while they terminate (KEP-1669).
func (n *node) usable(all []endpoint) []endpoint {
	allowed := n.hinted(all)
	if ready := filter(all, func(e *endpoint) bool { return e.ready && allowed(e) }); len(ready) > 0 {
		return ready
	}
	return filter(all, draining)
}

// usableHere returns the endpoints of this node, by the same rule without
// hints.
func usableHere(all []endpoint) []endpoint {
	if ready := filter(all, func(e *endpoint) bool { return e.local && e.ready }); len(ready) > 0 {
		return ready
	}
	return filter(all, func(e *endpoint) bool { return e.local && draining(e) })
}

func draining(e *endpoint) bool { return e.serving && e.terminating }

// hinted decides how hints restrict the choice (KEP-2433, KEP-3015): they
// count only if every ready endpoint has them and one names this node or zone,
// so that a partly written set of slices never leaves a node without service.
func (n *node) hinted(all []endpoint) func(*endpoint) bool {
	everyNode, everyZone, forNode, forZone := true, true, false, false
	for i := range all {
		e := &all[i]
		if !e.ready {
			continue
		}
		everyNode = everyNode && len(e.nodes) > 0
		everyZone = everyZone && len(e.zones) > 0
		forNode = forNode || slices.Contains(e.nodes, n.name)
		forZone = forZone || n.zone != "" && slices.Contains(e.zones, n.zone)
	}
	switch {
	case everyNode && forNode:
		return func(e *endpoint) bool { return slices.Contains(e.nodes, n.name) }
	case everyZone && forZone:
		return func(e *endpoint) bool { return slices.Contains(e.zones, n.zone) }
	}
	return func(*endpoint) bool { return true }
}

func filter(all []endpoint, keep func(*endpoint) bool) []endpoint {
	var out []endpoint
	for i := range all {
		if keep(&all[i]) {
			out = append(out, all[i])
		}
	}
	return out
}

func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
