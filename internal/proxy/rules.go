package proxy

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rules adds the rules of a chain.
func (b *batch) rules(n namedChain) {
	for _, r := range n.rules {
		b.rule(n.name, b.expressions(n, r)...)
	}
}

func (b *batch) expressions(n namedChain, r rule) []expr.Any {
	switch r.op {
	case markOutsiders:
		return append([]expr.Any{b.payload(b.saddr, reg(0)), &expr.Lookup{SourceRegister: reg(0), SetName: setPods, Invert: true}}, setMark()...)
	case mark:
		return setMark()
	case podsTo:
		return []expr.Any{b.payload(b.saddr, reg(0)), lookup(reg(0), setPods), verdict(expr.VerdictGoto, r.target)}
	case nodeTo:
		match := []expr.Any{
			&expr.Fib{Register: reg(0), FlagSADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		}
		return append(append(match, setMark()...), verdict(expr.VerdictGoto, r.target))
	case fromTo:
		return append(b.from(r.prefix), verdict(expr.VerdictGoto, r.target))
	case to:
		return []expr.Any{verdict(expr.VerdictGoto, r.target)}
	case resume:
		return append(b.client(n),
			&expr.Lookup{SourceRegister: reg(8), DestRegister: reg(1), IsDestRegSet: true, SetName: mapClients},
			number(n, 0), lookup(reg(0), setLive),
			b.remember(n), b.send())
	case spreadSticky:
		return append(append(b.client(n), b.pick(n, r.n)...), b.remember(n), b.send())
	case spread:
		return append(b.pick(n, r.n), b.send())
	default:
		return []expr.Any{number(n, 0), &expr.Immediate{Register: reg(1), Data: make([]byte, 4)}, b.endpoint(), b.send()}
	}
}

// Rules that choose an endpoint have the chain's number in register 0 and the
// endpoint in those from 1 on; the key of the client is in those from 8 on.

// number loads the chain's number.
func number(n namedChain, register uint32) expr.Any {
	return &expr.Immediate{Register: reg(register), Data: idBytes(n.chain)}
}

// client loads the client's key.
func (b *batch) client(n namedChain) []expr.Any {
	return []expr.Any{number(n, 8), b.payload(b.saddr, reg(9))}
}

// pick loads a random endpoint.
func (b *batch) pick(n namedChain, modulus int) []expr.Any {
	return []expr.Any{number(n, 0), &expr.Numgen{Register: reg(1), Modulus: uint32(modulus), Type: unix.NFT_NG_RANDOM}, b.endpoint()}
}

// endpoint replaces the slot number in register 1 by the endpoint.
func (b *batch) endpoint() expr.Any {
	return &expr.Lookup{SourceRegister: reg(0), DestRegister: reg(1), IsDestRegSet: true, SetName: mapSlots}
}

// remember stores the endpoint for the client. For a client that is stored
// already it only begins the time anew.
func (b *batch) remember(n namedChain) expr.Any {
	return &expr.Dynset{SrcRegKey: reg(8), SrcRegData: reg(1), SetName: mapClients, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: n.affinity}
}

// send rewrites the packet's destination to the endpoint.
func (b *batch) send() expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: b.nfproto, RegAddrMin: reg(1), RegProtoMin: b.after(1)}
}

func (b *batch) from(p netip.Prefix) []expr.Any {
	mask := make([]byte, b.size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		b.payload(b.saddr, reg(0)),
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: b.size, Mask: mask, Xor: make([]byte, b.size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: p.Masked().Addr().AsSlice()},
	}
}

// loadDestination loads the packet's destination as a key of the services map.
func (b *batch) loadDestination() []expr.Any {
	return []expr.Any{
		b.payload(b.daddr, reg(0)),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: b.after(0)},
		destinationPort(b.after(0) + 1),
	}
}

// branch goes to the chain that the map holds for the key in the first
// registers.
func (b *batch) branch(in collection) expr.Any {
	return &expr.Lookup{SourceRegister: reg(0), DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: b.shared(in).Name}
}

func (b *batch) payload(offset, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: b.size}
}

func destinationPort(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func lookup(register uint32, set string) expr.Any {
	return &expr.Lookup{SourceRegister: register, SetName: set}
}

func verdict(kind expr.VerdictKind, chain string) *expr.Verdict {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

func setMark() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)},
		&expr.Bitwise{
			SourceRegister: reg(0), DestRegister: reg(0), Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(masqueradeMark)),
			Xor:  binaryutil.NativeEndian.PutUint32(masqueradeMark),
		},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0), SourceRegister: true},
	}
}

// families returns the two IP families in the order in which the proxy keeps
// its tables.
func families() [2]*family { return [2]*family{ipv4(), ipv6()} }

// deleteTables removes all that the proxy has put into the kernel.
func deleteTables(conn *nftables.Conn) {
	for _, f := range families() {
		t := &nftables.Table{Name: tableName, Family: f.nft}
		// Adding first makes the deletion succeed when there is none.
		conn.AddTable(t)
		conn.DelTable(t)
	}
}
