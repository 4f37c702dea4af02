// Package topology sums quantities of nodes over topology domains (zones,
// racks, the nodes themselves), so that a change of one node costs nothing
// elsewhere.
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
	// levels is how many counting domains have each sum.
	levels map[int64]int
	total  int64
}

// NewCounter counts over the domains of the label key.
func NewCounter(key string) *Counter {
	return &Counter{key: key, ids: make(map[string]int32), levels: make(map[int64]int)}
}

// Key returns the label whose values are the domains.
func (c *Counter) Key() string { return c.key }

// Set takes in a node: whether it counts, and with what. It reports whether
// the sum of a domain changed that other nodes are in, or the least sum.
func (c *Counter) Set(n *framework.NodeInfo, counts bool, value int64) (others bool) {
	row := n.Row
	for len(c.domain) <= row {
		c.domain, c.counted, c.value = append(c.domain, None), append(c.counted, false), append(c.value, 0)
	}
	domain := c.domainOf(n)
	if domain == None || !counts {
		counts, value = false, 0
	}
	if c.domain[row] == domain && c.counted[row] == counts && c.value[row] == value {
		return false
	}
	least, domains := c.Least()
	if old := c.domain[row]; old != None {
		others = c.rows[old] > 1
		c.add(old, c.counted[row], -c.value[row], -1)
	}
	c.domain[row], c.counted[row], c.value[row] = domain, counts, value
	if domain != None {
		c.add(domain, counts, value, 1)
		others = others || c.rows[domain] > 1
	}
	nowLeast, nowDomains := c.Least()
	return others || least != nowLeast || domains != nowDomains
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
		if c.levels[c.sum[domain]]--; c.levels[c.sum[domain]] == 0 {
			delete(c.levels, c.sum[domain])
		}
	}
	c.rows[domain] += sign
	if counted {
		c.members[domain] += sign
	}
	c.sum[domain] += value
	c.total += value
	if c.members[domain] > 0 {
		c.levels[c.sum[domain]]++
	}
}

// Least returns the least sum of a domain with nodes that count, and how many
// such domains there are.
func (c *Counter) Least() (sum int64, domains int) {
	first := true
	for level, n := range c.levels {
		domains += n
		if first || level < sum {
			sum, first = level, false
		}
	}
	return sum, domains
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
