package proxy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// table is the wanted state of one IP family and computes how to get there.
type table struct {
	parts map[types.NamespacedName]*part
	// claims holds, for each element, the Services that want it, in order of
	// name. The first one has it: when two Services claim one external address
	// and port, the same one wins on every node.
	claims map[key][]claim
	// lastID is the number that a chain got last.
	lastID uint32
}

type claim struct {
	owner  types.NamespacedName
	target string
}

// element is an entry of a shared collection; target is a chain for the maps
// and empty for the sets.
type element struct {
	key
	target string
}

// change is the difference between two states of a table, in the order in
// which the kernel must learn of it.
type change struct {
	created []namedChain
	altered []alteration
	// removed and added are elements of the shared collections. An element
	// that gets another target is in both.
	removed, added []element
	deleted        []namedChain
}

type namedChain struct {
	name string
	*chain
}

// alteration says how a chain that stays has changed.
type alteration struct {
	namedChain
	old *chain
	// rewrite says that the rules changed as well as the slots.
	rewrite bool
	// slots are the numbers of the slots that changed, came or went.
	slots []int
	// gone are the endpoints that no slot holds any more, fresh those that
	// none held before.
	gone, fresh []netip.AddrPort
}

func newTable() *table {
	return &table{parts: map[types.NamespacedName]*part{}, claims: map[key][]claim{}}
}

func (c *change) empty() bool {
	return len(c.created)+len(c.altered)+len(c.removed)+len(c.added)+len(c.deleted) == 0
}

// update replaces the parts of the Services in next (nil: nothing) and returns
// the difference.
func (t *table) update(next map[types.NamespacedName]*part) *change {
	c := &change{}
	before := map[key]string{}
	touch := func(k key) {
		if _, seen := before[k]; seen {
			return
		}
		before[k] = absent
		if l := t.claims[k]; len(l) > 0 {
			before[k] = l[0].target
		}
	}
	for _, owner := range slices.SortedFunc(maps.Keys(next), compareNames) {
		old, now := t.parts[owner], next[owner]
		if old == nil {
			old = &part{}
		}
		if now == nil {
			delete(t.parts, owner)
			now = &part{}
		} else {
			t.parts[owner] = now
		}
		t.chains(c, old.chains, now.chains)
		for k := range old.elements {
			if _, stays := now.elements[k]; !stays {
				touch(k)
				t.drop(k, owner)
			}
		}
		for k, target := range now.elements {
			if had, ok := old.elements[k]; ok && had == target {
				continue
			}
			touch(k)
			t.drop(k, owner)
			t.claim(k, claim{owner, target})
		}
	}
	for k, had := range before {
		has := absent
		if l := t.claims[k]; len(l) > 0 {
			has = l[0].target
		}
		if had == has {
			continue
		}
		if had != absent {
			c.removed = append(c.removed, element{k, had})
		}
		if has != absent {
			c.added = append(c.added, element{k, has})
		}
	}
	return c
}

// absent stands for "no such element"; it is no chain's name.
const absent = "\x00"

func compareNames(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) }

func (t *table) claim(k key, c claim) {
	l := t.claims[k]
	at, _ := slices.BinarySearchFunc(l, c.owner, func(c claim, o types.NamespacedName) int { return compareNames(c.owner, o) })
	t.claims[k] = slices.Insert(l, at, c)
}

func (t *table) drop(k key, owner types.NamespacedName) {
	l := slices.DeleteFunc(t.claims[k], func(c claim) bool { return c.owner == owner })
	if len(l) == 0 {
		delete(t.claims, k)
		return
	}
	t.claims[k] = l
}

func (t *table) chains(c *change, old, now map[string]*chain) {
	for name, o := range old {
		if now[name] == nil {
			c.deleted = append(c.deleted, namedChain{name, o})
		}
	}
	for name, n := range now {
		o := old[name]
		if o == nil {
			t.lastID++
			n.id = t.lastID
			c.created = append(c.created, namedChain{name, n})
			continue
		}
		n.id = o.id
		if !sameChain(o, n) {
			c.altered = append(c.altered, alter(name, o, n))
		}
	}
}

func sameChain(a, b *chain) bool {
	return slices.Equal(a.rules, b.rules) && slices.Equal(a.slots, b.slots)
}

func alter(name string, o, n *chain) alteration {
	a := alteration{namedChain: namedChain{name, n}, old: o, rewrite: !slices.Equal(o.rules, n.rules)}
	for i := range max(len(o.slots), len(n.slots)) {
		if i >= len(o.slots) || i >= len(n.slots) || o.slots[i] != n.slots[i] {
			a.slots = append(a.slots, i)
		}
	}
	a.gone, a.fresh = missing(o.slots, n.slots), missing(n.slots, o.slots)
	return a
}

// missing returns what is in a but not in b.
func missing(a, b []netip.AddrPort) []netip.AddrPort {
	has := make(map[netip.AddrPort]bool, len(b))
	for _, x := range b {
		has[x] = true
	}
	var out []netip.AddrPort
	for _, x := range a {
		if !has[x] {
			out = append(out, x)
		}
	}
	return out
}

// whole returns the change that makes the table out of nothing.
func (t *table) whole() *change {
	c := &change{}
	for _, p := range t.parts {
		for name, n := range p.chains {
			c.created = append(c.created, namedChain{name, n})
		}
	}
	for k, l := range t.claims {
		c.added = append(c.added, element{k, l[0].target})
	}
	return c
}
