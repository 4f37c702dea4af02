package network

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// tableName is the name of the tables with the pod network's rules, one for
// each IP family.
const tableName = "skiff-network"

// masquerade replaces the tables: packets of this node's pods that leave the
// cluster get the node's address, and nobody on the bridge reaches the node's
// loopback addresses.
func (m *Manager) masquerade(own []netip.Prefix) error {
	conn, err := nftables.New(nftables.WithNetNSFd(m.NetNS))
	if err != nil {
		return err
	}
	m.deleteTables(conn)
	for _, v4 := range []bool{true, false} {
		of := func(list []netip.Prefix) []netip.Prefix {
			var out []netip.Prefix
			for _, p := range list {
				if p.Addr().Is4() == v4 {
					out = append(out, p)
				}
			}
			return out
		}
		if len(of(own)) == 0 {
			continue
		}
		r := rules{conn: conn, bridge: m.BridgeName, table: conn.AddTable(m.table(v4)), saddr: 12, daddr: 16, size: 4, loopback: netip.MustParsePrefix("127.0.0.0/8"), multicast: netip.MustParsePrefix("224.0.0.0/4")}
		if !v4 {
			r.saddr, r.daddr, r.size, r.loopback, r.multicast = 8, 24, 16, netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("ff00::/8")
		}
		r.postrouting(of(own), append(of(m.ClusterCIDRs), r.multicast))
		r.protectLoopback()
	}
	return conn.Flush()
}

func (m *Manager) removeRules() error {
	conn, err := nftables.New(nftables.WithNetNSFd(m.NetNS))
	if err != nil {
		return err
	}
	m.deleteTables(conn)
	return conn.Flush()
}

func (m *Manager) deleteTables(conn *nftables.Conn) {
	for _, v4 := range []bool{true, false} {
		// Adding first makes the deletion succeed when there is none.
		conn.DelTable(conn.AddTable(m.table(v4)))
	}
}

func (m *Manager) table(v4 bool) *nftables.Table {
	if v4 {
		return &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}
	}
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv6}
}

// rules writes the rules of one family.
type rules struct {
	conn                *nftables.Conn
	table               *nftables.Table
	bridge              string
	saddr, daddr, size  uint32
	loopback, multicast netip.Prefix
}

func (r *rules) postrouting(own, inside []netip.Prefix) {
	c := r.conn.AddChain(&nftables.Chain{
		Table: r.table, Name: "postrouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	for _, p := range inside {
		r.add(c, append(r.match(r.daddr, p), &expr.Verdict{Kind: expr.VerdictReturn}))
	}
	for _, p := range own {
		r.add(c, append(r.match(r.saddr, p), &expr.Masq{FullyRandom: true}))
	}
}

func (r *rules) protectLoopback() {
	c := r.conn.AddChain(&nftables.Chain{
		Table: r.table, Name: "prerouting", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	name := make([]byte, 16)
	copy(name, r.bridge)
	r.add(c, append([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
	}, append(r.match(r.daddr, r.loopback), &expr.Verdict{Kind: expr.VerdictDrop})...))
}

func (r *rules) add(c *nftables.Chain, e []expr.Any) {
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: c, Exprs: e})
}

// match compares the address at an offset of the IP header with a prefix.
func (r *rules) match(offset uint32, p netip.Prefix) []expr.Any {
	mask := make([]byte, r.size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: r.size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: r.size, Mask: mask, Xor: make([]byte, r.size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}
