package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// PortMapping opens a port of the node for a pod; the runtime hands it over as
// the capability "portMappings".
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	// HostIP restricts the mapping to one address of the node; empty or
	// unspecified means all of one family or both.
	HostIP string `json:"hostIP,omitempty"`
}

// collides says whether both want the same port of the same address. A mapping
// for one address may stand beside one for all: it takes precedence.
func (p PortMapping) collides(o PortMapping) bool {
	everywhere := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	return p.HostPort != 0 && p.HostPort == o.HostPort && strings.EqualFold(p.Protocol, o.Protocol) &&
		(p.HostIP == o.HostIP || everywhere(p.HostIP) && everywhere(o.HostIP))
}

// portsTable is the name of the tables with the mappings, one for each IP
// family.
const portsTable = "skiff-host-ports"

// hostPorts is the table of one family.
type hostPorts struct {
	conn         *nftables.Conn
	table        *nftables.Table
	addrType     nftables.SetDatatype
	saddr, daddr uint32
	size         uint32
	loopback     netip.Prefix
}

func newHostPorts(conn *nftables.Conn, v4 bool) *hostPorts {
	if v4 {
		return &hostPorts{conn, &nftables.Table{Name: portsTable, Family: nftables.TableFamilyIPv4}, nftables.TypeIPAddr, 12, 16, 4, netip.MustParsePrefix("127.0.0.0/8")}
	}
	return &hostPorts{conn, &nftables.Table{Name: portsTable, Family: nftables.TableFamilyIPv6}, nftables.TypeIP6Addr, 8, 24, 16, netip.MustParsePrefix("::1/128")}
}

// mapPorts opens the ports for the pod with the given addresses.
func mapPorts(addrs []netip.Addr, ports []PortMapping) error {
	return changePorts(addrs, ports, true)
}

// unmapPorts closes the ports; those that are closed already are no error.
func unmapPorts(addrs []netip.Addr, ports []PortMapping) error {
	return changePorts(addrs, ports, false)
}

func changePorts(addrs []netip.Addr, ports []PortMapping, open bool) error {
	if len(ports) == 0 {
		return nil
	}
	for _, addr := range addrs {
		// A batch for each mapping: closing must not fail as a whole because
		// one mapping was never opened.
		for _, p := range ports {
			if p.HostPort == 0 {
				continue
			}
			if err := changePort(addr, p, open); err != nil {
				return err
			}
		}
	}
	return forgetDatagrams(ports)
}

func changePort(addr netip.Addr, p PortMapping, open bool) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	h := newHostPorts(conn, addr.Is4())
	proto, err := protocolNumber(p.Protocol)
	if err != nil {
		return err
	}
	set, key := h.anyAddress(), []byte{proto, 0, 0, 0, byte(p.HostPort >> 8), byte(p.HostPort), 0, 0}
	if p.HostIP != "" {
		ip, err := netip.ParseAddr(p.HostIP)
		if err != nil {
			return fmt.Errorf("host port %d: address %q: %w", p.HostPort, p.HostIP, err)
		}
		if ip.Is4() != addr.Is4() {
			return nil
		}
		if !ip.IsUnspecified() {
			set, key = h.oneAddress(), append(ip.AsSlice(), key...)
		}
	}
	element := nftables.SetElement{Key: key, Val: append(addr.AsSlice(), byte(p.ContainerPort>>8), byte(p.ContainerPort), 0, 0)}
	hairpin := nftables.SetElement{Key: append(addr.AsSlice(), addr.AsSlice()...)}
	if open {
		h.setup()
		err = errors.Join(conn.SetAddElements(set, []nftables.SetElement{element}), conn.SetAddElements(h.hairpins(), []nftables.SetElement{hairpin}))
	} else {
		err = conn.SetDeleteElements(set, []nftables.SetElement{element})
	}
	if err != nil {
		return err
	}
	if err := conn.Flush(); err != nil && (open || !errors.Is(err, os.ErrNotExist)) {
		return fmt.Errorf("host port %d/%s: %w", p.HostPort, p.Protocol, err)
	}
	return nil
}

// setup makes the table with its rules. It may be repeated; the maps keep what
// they have.
func (h *hostPorts) setup() {
	h.conn.AddTable(h.table)
	for i, s := range []*nftables.Set{h.anyAddress(), h.oneAddress(), h.hairpins()} {
		s.ID = uint32(i + 1)
		// The library reports only errors in a set's elements here.
		_ = h.conn.AddSet(s, nil)
	}
	ports := h.chain("ports", nil, nil)
	h.rule(ports, append(h.key(true), h.send(h.oneAddress())...)...)
	h.rule(ports, append([]expr.Any{
		&expr.Fib{Register: reg(0), FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: []byte{unix.RTN_LOCAL, 0, 0, 0}},
	}, append(h.key(false), h.send(h.anyAddress())...)...)...)

	jump := &expr.Verdict{Kind: expr.VerdictJump, Chain: "ports"}
	h.rule(h.chain("prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest), jump)
	h.rule(h.chain("output", nftables.ChainHookOutput, nftables.ChainPriorityNATDest), jump)

	post := h.chain("postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	// A pod that comes to itself, and a process that comes from a loopback
	// address, must get the answer through the node.
	h.rule(post, h.payload(h.saddr, 0), h.payload(h.daddr, h.size/4), &expr.Lookup{SourceRegister: reg(0), SetName: h.hairpins().Name}, &expr.Masq{FullyRandom: true})
	mask := make([]byte, h.size)
	for i := range h.loopback.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	h.rule(post,
		&expr.Meta{Key: expr.MetaKeyOIFTYPE, Register: reg(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: []byte{byte(unix.ARPHRD_LOOPBACK & 0xff), byte(unix.ARPHRD_LOOPBACK >> 8)}},
		h.payload(h.saddr, 0),
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: h.size, Mask: mask, Xor: make([]byte, h.size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: h.loopback.Addr().AsSlice()},
		&expr.Masq{FullyRandom: true})
}

func (h *hostPorts) chain(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	c := &nftables.Chain{Table: h.table, Name: name}
	if hook != nil {
		c.Type, c.Hooknum, c.Priority = nftables.ChainTypeNAT, hook, priority
	}
	h.conn.AddChain(c)
	h.conn.FlushChain(c)
	return c
}

func (h *hostPorts) rule(c *nftables.Chain, e ...expr.Any) {
	h.conn.AddRule(&nftables.Rule{Table: h.table, Chain: c, Exprs: e})
}

// key loads protocol and port, after the destination address if wanted.
func (h *hostPorts) key(address bool) []expr.Any {
	var out []expr.Any
	at := uint32(0)
	if address {
		out = append(out, h.payload(h.daddr, 0))
		at = h.size / 4
	}
	return append(out,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(at)},
		&expr.Payload{DestRegister: reg(at + 1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

// send looks the loaded key up and rewrites the destination.
func (h *hostPorts) send(s *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: reg(0), DestRegister: reg(0), IsDestRegSet: true, SetName: s.Name},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(h.table.Family), RegAddrMin: reg(0), RegProtoMin: reg(h.size / 4)},
	}
}

func (h *hostPorts) payload(offset, register uint32) expr.Any {
	return &expr.Payload{DestRegister: reg(register), Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: h.size}
}

// anyAddress maps (protocol, port) of any of the node's addresses to a pod.
func (h *hostPorts) anyAddress() *nftables.Set {
	return h.set("any-address", nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService))
}

// oneAddress maps (address, protocol, port) to a pod.
func (h *hostPorts) oneAddress() *nftables.Set {
	return h.set("one-address", nftables.MustConcatSetType(h.addrType, nftables.TypeInetProto, nftables.TypeInetService))
}

func (h *hostPorts) set(name string, key nftables.SetDatatype) *nftables.Set {
	return &nftables.Set{
		Table: h.table, Name: name, ID: 1, IsMap: true, Concatenation: true, KeyType: key,
		DataType: nftables.MustConcatSetType(h.addrType, nftables.TypeInetService),
	}
}

// hairpins are the pods with host ports. Addresses stay in it: it matters only
// for packets from an address to itself.
func (h *hostPorts) hairpins() *nftables.Set {
	return &nftables.Set{Table: h.table, Name: "hairpins", ID: 1, Concatenation: true, KeyType: nftables.MustConcatSetType(h.addrType, h.addrType)}
}

func reg(i uint32) uint32 { return unix.NFT_REG32_00 + i }

func protocolNumber(name string) (byte, error) {
	switch name {
	case "tcp", "TCP", "":
		return unix.IPPROTO_TCP, nil
	case "udp", "UDP":
		return unix.IPPROTO_UDP, nil
	case "sctp", "SCTP":
		return unix.IPPROTO_SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q of a host port is not known: use tcp, udp or sctp", name)
}

// forgetDatagrams deletes the tracked UDP flows to the ports: a client that
// keeps sending would otherwise go on to where the port led before.
func forgetDatagrams(ports []PortMapping) error {
	flows := staleFlows{}
	for _, p := range ports {
		if n, err := protocolNumber(p.Protocol); err == nil && n == unix.IPPROTO_UDP {
			flows[uint16(p.HostPort)] = true
		}
	}
	if len(flows) == 0 {
		return nil
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, flows); err != nil {
			return fmt.Errorf("forget UDP flows: %w", err)
		}
	}
	return nil
}

// staleFlows matches UDP flows to the ports it holds.
type staleFlows map[uint16]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return f.Forward.Protocol == unix.IPPROTO_UDP && s[f.Forward.DstPort]
}
