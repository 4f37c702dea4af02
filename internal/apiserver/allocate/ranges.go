package allocate

import (
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
)

// replaceRange notes a ServiceCIDR. Addresses are given from it while it is
// ready and not being deleted.
func (a *Allocator) replaceRange(old, c *networkingv1.ServiceCIDR) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old != nil {
		delete(a.mu.cidrs, old.Name)
	}
	if c != nil && c.DeletionTimestamp == nil && meta.IsStatusConditionTrue(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				a.mu.cidrs[c.Name] = append(a.mu.cidrs[c.Name], p.Masked())
			}
		}
	}
	var more []netip.Prefix
	for _, list := range a.mu.cidrs {
		for _, p := range list {
			if !slices.Contains(a.base, p) && !slices.Contains(more, p) {
				more = append(more, p)
			}
		}
	}
	slices.SortFunc(more, netip.Prefix.Compare)
	a.mu.ranges = slices.Concat(a.base, more)
}

// families are those of the ranges, each once.
func families(ranges []netip.Prefix) (all []corev1.IPFamily) {
	for _, r := range ranges {
		if f := familyOf(r.Addr()); !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// maxHostBits bounds how far into a range free addresses are looked for.
const maxHostBits = 20

func hostBits(r netip.Prefix) int { return r.Addr().BitLen() - r.Bits() }

// lastHost returns how many addresses follow that of the network, which is
// nobody's, up to the last that can be a Service's: with IPv4 the very last one
// is for broadcasts.
func lastHost(r netip.Prefix, bits int) uint64 {
	n := uint64(1)<<bits - 1
	if r.Addr().Is4() && n > 0 {
		n--
	}
	return n
}

// hosts is how many addresses of the range are given away, at most 2^20.
func hosts(r netip.Prefix) uint64 { return lastHost(r, min(hostBits(r), maxHostBits)) }

// holds tells whether the range has the address, and it can be a Service's.
func holds(r netip.Prefix, ip netip.Addr) bool {
	if !r.Contains(ip) || ip == r.Masked().Addr() {
		return false
	}
	return !ip.Is4() || ip.Compare(offset(r.Masked().Addr(), lastHost(r, hostBits(r)))) <= 0
}

// candidates are the addresses of the range in the order in which they are tried.
// Those at its start are for Services that ask for a certain one (KEP-3070): a
// sixteenth of a range of more than 16 addresses, at least 16 and at most 256.
func candidates(r netip.Prefix) iter.Seq[netip.Addr] {
	size, reserved := uint64(1)<<min(hostBits(r), maxHostBits), uint64(0)
	if size > 16 {
		reserved = min(max(size/16, 16), 256)
	}
	return func(yield func(netip.Addr) bool) {
		for n := range trials(hosts(r), reserved) {
			if !yield(offset(r.Addr(), 1+n)) {
				return
			}
		}
	}
}

// trials are the numbers below n in the order in which they are tried: from
// anywhere on, but those below reserved last.
func trials(n, reserved uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for _, part := range []struct{ first, n uint64 }{{reserved, n - reserved}, {0, reserved}} {
			if part.n == 0 {
				continue
			}
			start := rand.Uint64N(part.n)
			for i := range part.n {
				if !yield(part.first + (start+i)%part.n) {
					return
				}
			}
		}
	}
}

// offset returns the address n after base; n is below 2^56.
func offset(base netip.Addr, n uint64) netip.Addr {
	raw := base.AsSlice()
	for i := len(raw) - 1; i >= 0 && n > 0; i-- {
		n += uint64(raw[i])
		raw[i] = byte(n)
		n >>= 8
	}
	ip, _ := netip.AddrFromSlice(raw)
	return ip
}
