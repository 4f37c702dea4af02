package proxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the name of the tables that hold all of the proxy's state, one
// for each IP family.
const tableName = "skiff-proxy"

// masqueradeMark is the bit of the packet mark that asks for masquerade; it is
// the one that upstream uses, which other network software knows to leave alone.
const masqueradeMark = 0x4000

// Names of the sets that only exist in the kernel.
const (
	setPods      = "pods"
	setNodeAddrs = "node-addresses"
	// mapSlots leads from chain and slot number to the endpoint.
	mapSlots = "slots"
	// mapClients leads from chain and client to the endpoint that the client
	// had last; packets fill it.
	mapClients = "clients"
	// setLive holds the endpoints of each chain that its clients may go back to.
	setLive = "live"
)

// elementsPerMessage keeps a message's nested attribute below netlink's limit
// of 64 KiB.
const elementsPerMessage = 256

// maxClients bounds the memory that session affinity takes.
const maxClients = 1 << 20

// family holds what differs between IPv4 and IPv6.
type family struct {
	nft nftables.TableFamily
	// nfproto is the kernel's number; saddr and daddr are header offsets and
	// size is the length of an address.
	nfproto, saddr, daddr, size uint32
	addrType                    nftables.SetDatatype
	// unreachable is the ICMP code for "port unreachable".
	unreachable uint8
}

func ipv4() *family {
	return &family{nftables.TableFamilyIPv4, unix.NFPROTO_IPV4, 12, 16, 4, nftables.TypeIPAddr, 3}
}

func ipv6() *family {
	return &family{nftables.TableFamilyIPv6, unix.NFPROTO_IPV6, 8, 24, 16, nftables.TypeIP6Addr, 4}
}

// reg returns the number of the i-th 32-bit register. An address takes one of
// them or four.
func reg(i uint32) uint32 { return unix.NFT_REG32_00 + i }

// after returns the register that follows an address in register i.
func (f *family) after(i uint32) uint32 { return reg(i + f.size/4) }

// batch collects one atomic change of the kernel's state.
type batch struct {
	*family
	conn  *nftables.Conn
	table *nftables.Table
	ids   *uint32
	err   error
}

func newBatch(conn *nftables.Conn, f *family, ids *uint32) *batch {
	return &batch{family: f, conn: conn, ids: ids, table: &nftables.Table{Name: tableName, Family: f.nft}}
}

// setup replaces the whole table by one that has no Services yet. Together
// with the change that fills it it takes effect at one instant.
func (b *batch) setup(pods []netip.Prefix, nodeAddrs []netip.Addr) {
	b.conn.AddTable(b.table)
	b.conn.DelTable(b.table)
	b.conn.AddTable(b.table)

	b.addSet(b.shared(services), nil)
	b.addSet(b.shared(nodePorts), nil)
	b.addSet(b.shared(clusterIPs), nil)
	b.addSet(b.shared(hairpins), nil)
	b.addSet(b.slots(), nil)
	b.addSet(b.clients(), nil)
	b.addSet(b.live(), nil)
	b.addSet(b.named(setNodeAddrs, func(s *nftables.Set) { s.KeyType = b.addrType }), addrElements(nodeAddrs))
	b.addSet(b.named(setPods, func(s *nftables.Set) { s.KeyType = b.addrType; s.Interval = true }), prefixElements(pods))

	for _, c := range []string{chainReject, chainDrop, "services"} {
		b.conn.AddChain(b.chain(c))
	}
	b.rule(chainReject, &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: b.unreachable})
	b.rule(chainDrop, verdict(expr.VerdictDrop, ""))

	b.rule("services", append(b.loadDestination(), b.branch(services))...)
	b.rule("services", append([]expr.Any{
		b.payload(b.daddr, reg(0)), lookup(reg(0), setNodeAddrs),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(0)}, destinationPort(reg(1))}, b.branch(nodePorts))...)
	b.rule("services", b.payload(b.daddr, reg(0)), lookup(reg(0), b.shared(clusterIPs).Name), verdict(expr.VerdictGoto, chainReject))

	for _, hook := range []struct {
		name string
		hook *nftables.ChainHook
	}{{"prerouting", nftables.ChainHookPrerouting}, {"output", nftables.ChainHookOutput}} {
		c := b.chain(hook.name)
		c.Type, c.Hooknum, c.Priority = nftables.ChainTypeNAT, hook.hook, nftables.ChainPriorityNATDest
		b.conn.AddChain(c)
		b.rule(hook.name, verdict(expr.VerdictJump, "services"))
	}
	b.setupMasquerade()
}

func (b *batch) setupMasquerade() {
	const name = "postrouting"
	c := b.chain(name)
	c.Type, c.Hooknum, c.Priority = nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource
	b.conn.AddChain(c)
	bit := binaryutil.NativeEndian.PutUint32(masqueradeMark)
	b.rule(name,
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(1), Len: 4, Mask: bit, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg(1), Data: bit},
		// The mark has done its work: a tunnel must not inherit it.
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(^uint32(masqueradeMark)), Xor: make([]byte, 4)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0), SourceRegister: true},
		&expr.Masq{FullyRandom: true})
	b.rule(name,
		b.payload(b.saddr, reg(0)), b.payload(b.daddr, b.after(0)),
		lookup(reg(0), b.shared(hairpins).Name), &expr.Masq{FullyRandom: true})
}

// apply adds c to the batch.
func (b *batch) apply(c *change) {
	var add, live, remove, unlive []nftables.SetElement
	for _, n := range c.created {
		b.conn.AddChain(b.chain(n.name))
		add = append(add, slotElements(n.chain, every(n.slots))...)
		if n.affinity > 0 {
			live = append(live, endpointElements(n.chain, n.slots)...)
		}
	}
	b.change(b.conn.SetAddElements, b.slots(), add)
	b.change(b.conn.SetAddElements, b.live(), live)
	// Rules refer to other chains, so all must exist before.
	for _, n := range c.created {
		b.rules(n)
	}
	for i := range c.altered {
		b.alter(&c.altered[i])
	}
	b.elements(c.removed, false)
	b.elements(c.added, true)
	for _, n := range c.deleted {
		b.conn.FlushChain(b.chain(n.name))
	}
	for _, n := range c.deleted {
		b.conn.DelChain(b.chain(n.name))
		remove = append(remove, slotElements(n.chain, every(n.slots))...)
		if n.affinity > 0 {
			unlive = append(unlive, endpointElements(n.chain, n.slots)...)
		}
	}
	b.change(b.conn.SetDeleteElements, b.slots(), remove)
	b.change(b.conn.SetDeleteElements, b.live(), unlive)
}

// every returns the numbers of all slots.
func every(slots []netip.AddrPort) []int {
	all := make([]int, len(slots))
	for i := range all {
		all[i] = i
	}
	return all
}

func (b *batch) alter(a *alteration) {
	b.change(b.conn.SetDeleteElements, b.slots(), slotElements(a.old, a.slots))
	b.change(b.conn.SetAddElements, b.slots(), slotElements(a.chain, a.slots))
	if a.affinity > 0 {
		b.change(b.conn.SetDeleteElements, b.live(), endpointElements(a.chain, a.gone))
		b.change(b.conn.SetAddElements, b.live(), endpointElements(a.chain, a.fresh))
	}
	if a.rewrite {
		b.conn.FlushChain(b.chain(a.name))
		b.rules(a.namedChain)
	}
}

func (b *batch) elements(list []element, add bool) {
	do := b.conn.SetDeleteElements
	if add {
		do = b.conn.SetAddElements
	}
	by := map[collection][]nftables.SetElement{}
	for _, e := range list {
		if e.in == hairpins && !add {
			// A packet may have been sent to the endpoint just before. The set
			// stays small: it has at most all addresses of the node's pods.
			continue
		}
		by[e.in] = append(by[e.in], b.element(e))
	}
	for in, elements := range by {
		b.change(do, b.shared(in), elements)
	}
}

func (b *batch) change(do func(*nftables.Set, []nftables.SetElement) error, s *nftables.Set, elements []nftables.SetElement) {
	for len(elements) > 0 {
		n := min(len(elements), elementsPerMessage)
		if err := do(s, elements[:n]); err != nil && b.err == nil {
			b.err = fmt.Errorf("set %s: %w", s.Name, err)
		}
		elements = elements[n:]
	}
}

func (b *batch) chain(name string) *nftables.Chain {
	return &nftables.Chain{Table: b.table, Name: name}
}

func (b *batch) rule(chain string, e ...expr.Any) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: b.chain(chain), Exprs: e})
}

func (b *batch) addSet(s *nftables.Set, elements []nftables.SetElement) {
	*b.ids++
	s.ID = *b.ids
	if err := b.conn.AddSet(s, nil); err != nil && b.err == nil {
		b.err = fmt.Errorf("set %s: %w", s.Name, err)
	}
	b.change(b.conn.SetAddElements, s, elements)
}

// named returns a set of the table. The ID keeps the library from numbering it
// out of a global counter; a set that exists is found by its name.
func (b *batch) named(name string, options func(*nftables.Set)) *nftables.Set {
	s := &nftables.Set{Table: b.table, Name: name, ID: 1}
	options(s)
	return s
}

func (b *batch) shared(in collection) *nftables.Set {
	switch in {
	case services:
		return b.named("service-ports", func(s *nftables.Set) {
			s.IsMap, s.Concatenation, s.DataType = true, true, nftables.TypeVerdict
			s.KeyType = nftables.MustConcatSetType(b.addrType, nftables.TypeInetProto, nftables.TypeInetService)
		})
	case nodePorts:
		return b.named("node-ports", func(s *nftables.Set) {
			s.IsMap, s.Concatenation, s.DataType = true, true, nftables.TypeVerdict
			s.KeyType = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
		})
	case clusterIPs:
		return b.named("cluster-ips", func(s *nftables.Set) { s.KeyType = b.addrType })
	default:
		return b.named("hairpins", func(s *nftables.Set) {
			s.Concatenation = true
			s.KeyType = nftables.MustConcatSetType(b.addrType, b.addrType)
		})
	}
}

func (b *batch) slots() *nftables.Set {
	return b.named(mapSlots, func(s *nftables.Set) {
		s.IsMap, s.Concatenation, s.DataType = true, true, b.endpointType()
		s.KeyType = nftables.MustConcatSetType(nftables.TypeMark, nftables.TypeMark)
	})
}

func (b *batch) clients() *nftables.Set {
	return b.named(mapClients, func(s *nftables.Set) {
		s.IsMap, s.Concatenation, s.DataType = true, true, b.endpointType()
		s.KeyType = nftables.MustConcatSetType(nftables.TypeMark, b.addrType)
		s.Dynamic, s.HasTimeout, s.Size = true, true, maxClients
	})
}

func (b *batch) live() *nftables.Set {
	return b.named(setLive, func(s *nftables.Set) {
		s.Concatenation = true
		s.KeyType = nftables.MustConcatSetType(nftables.TypeMark, b.addrType, nftables.TypeInetService)
	})
}

func (b *batch) endpointType() nftables.SetDatatype {
	return nftables.MustConcatSetType(b.addrType, nftables.TypeInetService)
}

func (b *batch) element(e element) nftables.SetElement {
	var out nftables.SetElement
	switch e.in {
	case services:
		out.Key = append(e.addr.AsSlice(), e.proto, 0, 0, 0, byte(e.port>>8), byte(e.port), 0, 0)
	case nodePorts:
		out.Key = []byte{e.proto, 0, 0, 0, byte(e.port >> 8), byte(e.port), 0, 0}
	case clusterIPs:
		out.Key = e.addr.AsSlice()
	case hairpins:
		out.Key = append(e.addr.AsSlice(), e.addr.AsSlice()...)
	}
	if e.target != "" {
		out.VerdictData = verdict(expr.VerdictGoto, e.target)
	}
	return out
}

func endpointBytes(a netip.AddrPort) []byte {
	return append(a.Addr().AsSlice(), byte(a.Port()>>8), byte(a.Port()), 0, 0)
}

// idBytes is a chain's number as keys begin with it.
func idBytes(c *chain) []byte { return binary.NativeEndian.AppendUint32(nil, c.id) }

func slotElements(c *chain, at []int) []nftables.SetElement {
	var out []nftables.SetElement
	for _, i := range at {
		if i < len(c.slots) {
			out = append(out, nftables.SetElement{Key: binary.NativeEndian.AppendUint32(idBytes(c), uint32(i)), Val: endpointBytes(c.slots[i])})
		}
	}
	return out
}

func endpointElements(c *chain, list []netip.AddrPort) []nftables.SetElement {
	var out []nftables.SetElement
	for _, a := range list {
		out = append(out, nftables.SetElement{Key: append(idBytes(c), endpointBytes(a)...)})
	}
	return out
}

func addrElements(addrs []netip.Addr) []nftables.SetElement {
	var out []nftables.SetElement
	for _, a := range addrs {
		out = append(out, nftables.SetElement{Key: a.AsSlice()})
	}
	return out
}

// prefixElements makes the elements of an interval set: where a prefix begins
// and where it has ended. Prefixes must not overlap.
func prefixElements(prefixes []netip.Prefix) []nftables.SetElement {
	var out []nftables.SetElement
	for _, p := range prefixes {
		out = append(out, nftables.SetElement{Key: p.Masked().Addr().AsSlice()})
		if end := lastOf(p).Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

func lastOf(p netip.Prefix) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(raw)
	return last
}
