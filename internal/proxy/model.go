package proxy

import (
	"net/netip"
	"slices"
	"time"
)

// The model says what one IP family's table holds, in terms of Services rather
// than of nftables. It is made of two kinds of things:
//
//   - chains, each of which belongs to one port of one Service, and
//   - elements of the shared maps and sets, through which a packet finds its
//     chain in one hash lookup, however many Services there are.

// collection is one of the table's shared maps and sets.
type collection uint8

const (
	// services maps (destination address, protocol, port) to a chain.
	services collection = iota
	// nodePorts maps (protocol, port) to a chain for packets to the node's own
	// addresses.
	nodePorts
	// clusterIPs are the addresses that belong to Services: a port that no
	// Service has is refused instead of being sent out of the node.
	clusterIPs
	// hairpins are the addresses of endpoints on this node. A packet from one
	// of them to itself must come back through the node, so it is masqueraded.
	hairpins
)

// Chains that every table has.
const (
	chainReject = "reject"
	chainDrop   = "drop"
)

// key names an element; fields that its collection does not use are zero.
type key struct {
	in    collection
	addr  netip.Addr
	proto uint8
	port  uint16
}

// op is what a rule does.
type op uint8

const (
	// markOutsiders marks packets that do not come from pods for masquerade.
	markOutsiders op = iota
	// mark marks for masquerade.
	mark
	// podsTo sends packets from pods on to target.
	podsTo
	// nodeTo marks packets from this node's own addresses and sends them on to
	// target.
	nodeTo
	// fromTo sends packets from prefix on to target.
	fromTo
	// to sends everything on to target.
	to
	// resume sends a client to the endpoint that it had before, if that is
	// still one.
	resume
	// spread picks one of n endpoints at random.
	spread
	// spreadSticky does the same and remembers the choice for the client.
	spreadSticky
	// first picks the endpoint in slot 0. While the kernel goes over to a new
	// state, a packet can meet the old rules with the new slots; should its
	// slot be gone, it must still not pass unchanged, as the connection would
	// then be tracked as one to the Service's own address for good.
	first
)

// rule is one rule of a chain; which fields count depends on op.
type rule struct {
	op     op
	target string
	prefix netip.Prefix
	n      int
}

// chain is a chain of one service port. Endpoints stand in one map for all
// chains, by the chain's number and a slot number, so that a change of one
// endpoint changes one or two elements. (A map for each chain would be slow to
// make: the kernel finds the maps of a table by going through all of them.)
type chain struct {
	// id is the chain's number in the table. It is set when the chain becomes
	// part of one, and kept for as long as a chain of that name is.
	id    uint32
	rules []rule
	// slots are the endpoints by slot.
	slots []netip.AddrPort
	// affinity is how long a client keeps its endpoint; zero for no affinity.
	affinity time.Duration
}

// part is all that one Service adds to a table.
type part struct {
	chains   map[string]*chain
	elements map[key]string
	// datagrams are the UDP front ends, for the clean-up of connection
	// tracking: where each may lead.
	datagrams map[key][]netip.AddrPort
}

// balance makes the chain that spreads over endpoints. The order of want does
// not matter; previous is the chain of that name before, if there was one.
func balance(want []netip.AddrPort, affinity time.Duration, outsiders bool, previous *chain) *chain {
	c := &chain{affinity: affinity}
	if outsiders {
		c.rules = append(c.rules, rule{op: markOutsiders})
	}
	if previous != nil {
		c.slots = assign(previous.slots, want)
	} else {
		c.slots = assign(nil, want)
	}
	if affinity > 0 {
		// The rules after these take over when the map of clients is full.
		c.rules = append(c.rules, rule{op: resume}, rule{op: spreadSticky, n: len(want)})
	}
	c.rules = append(c.rules, rule{op: spread, n: len(want)}, rule{op: first})
	return c
}

// assign gives each wanted endpoint a slot below len(want); endpoints that had
// such a slot before keep it.
func assign(previous, want []netip.AddrPort) []netip.AddrPort {
	slots := make([]netip.AddrPort, len(want))
	missing := make(map[netip.AddrPort]bool, len(want))
	for _, w := range want {
		missing[w] = true
	}
	for i, p := range previous[:min(len(previous), len(slots))] {
		if missing[p] {
			slots[i] = p
			delete(missing, p)
		}
	}
	rest := make([]netip.AddrPort, 0, len(missing))
	for m := range missing {
		rest = append(rest, m)
	}
	slices.SortFunc(rest, netip.AddrPort.Compare)
	for i := range slots {
		if !slots[i].IsValid() {
			slots[i], rest = rest[0], rest[1:]
		}
	}
	return slots
}
