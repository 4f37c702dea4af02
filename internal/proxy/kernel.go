package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	vnetlink "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// kernel sends batches to the network namespace of a file descriptor (zero:
// the process's own).
type kernel struct {
	netns int
}

// open makes a connection for one batch. Replies to a large batch arrive all
// at once, so the buffers must hold them; the kernel takes memory only for what
// is really queued.
func (k kernel) open() (*nftables.Conn, error) {
	const buffer = 256 << 20
	return nftables.New(nftables.WithNetNSFd(k.netns), nftables.WithSockOptions(func(c *netlink.Conn) error {
		if err := c.SetReadBuffer(buffer); err != nil {
			return err
		}
		return c.SetWriteBuffer(buffer)
	}))
}

// replace puts tables in place of whatever is there, in one step.
func (k kernel) replace(tables [2]*table, pods []netip.Prefix, nodeAddrs []netip.Addr) error {
	return k.commit(func(b *batch, i int) {
		b.setup(of(pods, b.family, netip.Prefix.Addr), of(nodeAddrs, b.family, func(a netip.Addr) netip.Addr { return a }))
		b.apply(tables[i].whole())
	})
}

// apply changes the tables in one step.
func (k kernel) apply(changes [2]*change) error {
	err := k.commit(func(b *batch, i int) { b.apply(changes[i]) })
	if err != nil {
		return err
	}
	return k.forget(changes)
}

func (k kernel) commit(fill func(b *batch, i int)) error {
	conn, err := k.open()
	if err != nil {
		return err
	}
	var ids uint32
	for i, f := range families() {
		b := newBatch(conn, f, &ids)
		fill(b, i)
		if b.err != nil {
			return b.err
		}
	}
	return conn.Flush()
}

// forget removes the clients that were bound to endpoints which are gone. The
// rules do not follow such a binding any more, but they do not replace it
// either.
func (k kernel) forget(changes [2]*change) error {
	conn, err := k.open()
	if err != nil {
		return err
	}
	var ids uint32
	for i, f := range families() {
		gone := map[string]bool{}
		for _, a := range changes[i].altered {
			if a.affinity > 0 {
				for _, g := range a.gone {
					gone[string(idBytes(a.chain))+string(endpointBytes(g))] = true
				}
			}
		}
		if len(gone) == 0 {
			continue
		}
		clients := newBatch(conn, f, &ids).clients()
		all, err := conn.GetSetElements(clients)
		if err != nil {
			return fmt.Errorf("session affinity: %w", err)
		}
		for _, e := range all {
			if len(e.Key) < 4 || !gone[string(e.Key[:4])+string(e.Val)] {
				continue
			}
			// One by one: an entry that ran out meanwhile fails its batch.
			if err := conn.SetDeleteElements(clients, []nftables.SetElement{{Key: e.Key, Val: e.Val}}); err != nil {
				return err
			}
			if err := conn.Flush(); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("session affinity: %w", err)
			}
		}
	}
	return nil
}

// cleanup removes the tables.
func (k kernel) cleanup() error {
	conn, err := k.open()
	if err != nil {
		return err
	}
	deleteTables(conn)
	return conn.Flush()
}

// forgetDatagrams deletes tracked UDP flows which lead where their front end
// does not lead any more (or lead nowhere, because it had no endpoint when they
// began). Without that a client that keeps its socket would be tied to a dead
// endpoint for as long as it keeps sending.
func (k kernel) forgetDatagrams(front map[key][]netip.AddrPort, nodeAddrs []netip.Addr) error {
	h, err := k.handle()
	if err != nil {
		return err
	}
	defer h.Close()
	var errs error
	for _, family := range []vnetlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		_, err := h.ConntrackDeleteFilters(vnetlink.ConntrackTable, family, &staleFlows{front, nodeAddrs})
		errs = errors.Join(errs, err)
	}
	return errs
}

func (k kernel) handle() (*vnetlink.Handle, error) {
	if k.netns != 0 {
		return vnetlink.NewHandleAt(netns.NsHandle(k.netns), unix.NETLINK_NETFILTER)
	}
	return vnetlink.NewHandle(unix.NETLINK_NETFILTER)
}

// staleFlows matches the UDP flows to delete.
type staleFlows struct {
	front     map[key][]netip.AddrPort
	nodeAddrs []netip.Addr
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s *staleFlows) MatchConntrackFlow(flow *vnetlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != protoUDP {
		return false
	}
	dst, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	src, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	dst, src = dst.Unmap(), src.Unmap()
	allowed, known := s.front[key{in: services, addr: dst, proto: protoUDP, port: flow.Forward.DstPort}]
	if !known {
		for _, a := range s.nodeAddrs {
			if a == dst {
				allowed, known = s.front[key{in: nodePorts, proto: protoUDP, port: flow.Forward.DstPort}]
			}
		}
	}
	if !known {
		return false
	}
	for _, a := range allowed {
		if a.Addr() == src && a.Port() == flow.Reverse.SrcPort {
			return false
		}
	}
	return true
}

// of returns the members of list that belong to a family.
func of[T any](list []T, f *family, addr func(T) netip.Addr) []T {
	var out []T
	for _, x := range list {
		if addr(x).Is4() == (f.nft == nftables.TableFamilyIPv4) {
			out = append(out, x)
		}
	}
	return out
}
