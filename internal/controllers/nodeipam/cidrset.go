package nodeipam

import (
	"fmt"
	"net/netip"
)

// cidrSet hands out subnets of one size from one range.
type cidrSet struct {
	cluster netip.Prefix
	bits    int // of a subnet
	count   int
	next    int // where the search for a free one starts
	used    map[int]struct{}
}

// maxSplit bounds the number of subnets to 2^maxSplit (upstream's limit).
const maxSplit = 16

func newCIDRSet(cluster netip.Prefix, bits int) (*cidrSet, error) {
	split := bits - cluster.Bits()
	if split < 0 || split > maxSplit || bits > cluster.Addr().BitLen() {
		return nil, fmt.Errorf("node mask size /%d does not fit the cluster CIDR %s: it must be from %d to %d bits long",
			bits, cluster, cluster.Bits(), min(cluster.Bits()+maxSplit, cluster.Addr().BitLen()))
	}
	return &cidrSet{cluster: cluster.Masked(), bits: bits, count: 1 << split, used: map[int]struct{}{}}, nil
}

// subnet returns the i-th subnet.
func (s *cidrSet) subnet(i int) netip.Prefix {
	addr := s.cluster.Addr().AsSlice()
	// Bit 0 of i is the last bit of the subnet's prefix.
	for bit := s.bits - 1; i != 0; bit-- {
		if i&1 != 0 {
			addr[bit/8] |= 1 << (7 - bit%8)
		}
		i >>= 1
	}
	a, _ := netip.AddrFromSlice(addr)
	return netip.PrefixFrom(a, s.bits)
}

// indexes returns the first and the last subnet that p touches.
func (s *cidrSet) indexes(p netip.Prefix) (first, last int, ok bool) {
	if !p.Overlaps(s.cluster) {
		return 0, 0, false
	}
	if p.Bits() <= s.cluster.Bits() {
		return 0, s.count - 1, true
	}
	addr := p.Addr().AsSlice()
	for bit := s.cluster.Bits(); bit < s.bits; bit++ {
		first = first<<1 | int(addr[bit/8]>>(7-bit%8)&1)
	}
	last = first
	if p.Bits() < s.bits {
		last += 1<<(s.bits-p.Bits()) - 1
	}
	return first, last, true
}

// occupy takes every subnet that p touches.
func (s *cidrSet) occupy(p netip.Prefix) {
	if first, last, ok := s.indexes(p); ok {
		for i := first; i <= last; i++ {
			s.used[i] = struct{}{}
		}
	}
}

// release gives back every subnet that p touches.
func (s *cidrSet) release(p netip.Prefix) {
	if first, last, ok := s.indexes(p); ok {
		for i := first; i <= last; i++ {
			delete(s.used, i)
		}
	}
}

// allocate takes the next free subnet, if there is one. A subnet that was given
// back is not handed out again before all others were.
func (s *cidrSet) allocate() (netip.Prefix, bool) {
	for range s.count {
		i := s.next
		s.next = (s.next + 1) % s.count
		if _, taken := s.used[i]; !taken {
			s.used[i] = struct{}{}
			return s.subnet(i), true
		}
	}
	return netip.Prefix{}, false
}
