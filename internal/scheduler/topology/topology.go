// Package topology counts things on nodes by topology domain (zones, regions,
// the nodes themselves).
package topology

import "skiff/internal/scheduler/framework"

// None is the domain of nodes without the label.
const None = -1

// Counter sums a quantity of nodes over the domains of one label.
type Counter struct {
	key string
	ids map[string]int32
	// By row: the domain, whether the row counts, and with what.
	domain  []int32
	counted []bool
	value   []int64
	// By domain: the sum, how many rows count and how many there are.
	sum           []int64
	members, rows []int32
	total         int64
	// levels is how many counting domains have each sum; least is the lowest,
	// unless it has to be looked for, and domains how many there are.
	levels  map[int64]int32
	least   int64
	stale   bool
	domains int
}

// NewCounter counts over the domains of the label key.
func NewCounter(key string) *Counter {
	return &Counter{key: key, ids: make(map[string]int32), levels: make(map[int64]int32)}
}

// Key returns the label whose values are the domains.
func (c *Counter) Key() string { return c.key }

// Set takes in a node: whether it counts, and with what. It reports whether
// other nodes belong to another group now.
func (c *Counter) Set(n *framework.NodeInfo, counts bool, value int64) (regroup bool) {
	row := n.Row
	for len(c.domain) <= row {
		c.domain, c.counted, c.value = append(c.domain, None), append(c.counted, false), append(c.value, 0)
	}
	domain := c.domainOf(n)
	if domain == None || !counts {
		counts, value = false, 0
	}
	old := c.domain[row]
	if old == domain && c.counted[row] == counts && c.value[row] == value {
		return false
	}
	if old != None {
		c.add(old, c.counted[row], -c.value[row], -1)
	}
	c.domain[row], c.counted[row], c.value[row] = domain, counts, value
	if domain != None {
		c.add(domain, counts, value, 1)
	}
	// Nodes that are alone in their domain are grouped by the sum, others by
	// the domain.
	return old != domain && (old != None && c.rows[old] == 1 || domain != None && c.rows[domain] == 2)
}

func (c *Counter) domainOf(n *framework.NodeInfo) int32 {
	if n.Node == nil {
		return None
	}
	label, ok := n.Node.Labels[c.key]
	if !ok {
		return None
	}
	id, ok := c.ids[label]
	if !ok {
		id = int32(len(c.sum))
		c.ids[label] = id
		c.sum, c.members, c.rows = append(c.sum, 0), append(c.members, 0), append(c.rows, 0)
	}
	return id
}

func (c *Counter) add(domain int32, counted bool, value int64, sign int32) {
	if c.members[domain] > 0 {
		c.level(c.sum[domain], -1)
	}
	c.rows[domain] += sign
	if counted {
		c.members[domain] += sign
	}
	c.sum[domain] += value
	c.total += value
	if c.members[domain] > 0 {
		c.level(c.sum[domain], 1)
	}
}

func (c *Counter) level(sum int64, sign int32) {
	c.domains += int(sign)
	c.levels[sum] += sign
	if c.levels[sum] == 0 {
		delete(c.levels, sum)
		c.stale = c.stale || sum == c.least
	} else if sum < c.least || c.domains == 1 && sign > 0 {
		c.least = sum
	}
}

// Least returns the least sum of a domain with nodes that count, and how many
// such domains there are.
func (c *Counter) Least() (sum int64, domains int) {
	if c.stale {
		c.stale, c.least = false, 0
		first := true
		for level := range c.levels {
			if first || level < c.least {
				c.least, first = level, false
			}
		}
	}
	return c.least, c.domains
}

// Group returns a number that is the same for rows of which Sum is the same
// and stays the same.
func (c *Counter) Group(row int) uint64 {
	d := c.Domain(row)
	switch {
	case d == None:
		return 0
	case c.rows[d] == 1:
		return uint64(c.sum[d])<<1 | 1
	}
	return uint64(d+1) << 1
}

// Alone reports whether the row has a domain of its own.
func (c *Counter) Alone(row int) bool {
	d := c.Domain(row)
	return d != None && c.rows[d] == 1
}

// Domain returns the number of the row's domain, or None.
func (c *Counter) Domain(row int) int32 {
	if row >= len(c.domain) {
		return None
	}
	return c.domain[row]
}

// Sum returns the sum of the row's domain; ok is false if it is in none.
func (c *Counter) Sum(row int) (sum int64, ok bool) {
	d := c.Domain(row)
	if d == None {
		return 0, false
	}
	return c.sum[d], true
}

// Value returns what the row itself counts with.
func (c *Counter) Value(row int) int64 { return c.value[row] }

// Total returns the sum over all domains.
func (c *Counter) Total() int64 { return c.total }
