package interpodaffinity

import (
	"slices"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/topology"
)

// counters are counters by topology key, made when a key first appears.
type counters struct {
	all []*topology.Counter
	// nodes are all rows seen, for counters that are made later.
	nodes []*framework.NodeInfo
	// amounts are those of the node that is being observed, by counter.
	amounts []int64
	// regroup is set when a counter was made.
	regroup bool
}

// begin starts to observe a node.
func (c *counters) begin(n *framework.NodeInfo) {
	for len(c.nodes) <= n.Row {
		c.nodes = append(c.nodes, nil)
	}
	c.nodes[n.Row] = n
	clear(c.amounts)
	c.regroup = false
}

// add adds an amount for the node that is being observed.
func (c *counters) add(key string, amount int64) {
	i := slices.IndexFunc(c.all, func(o *topology.Counter) bool { return o.Key() == key })
	if i < 0 {
		i = len(c.all)
		counter := topology.NewCounter(key)
		for _, o := range c.nodes {
			if o != nil {
				counter.Set(o, true, 0)
			}
		}
		c.all, c.amounts, c.regroup = append(c.all, counter), append(c.amounts, 0), true
	}
	c.amounts[i] += amount
}

// end takes the amounts in.
func (c *counters) end(n *framework.NodeInfo) (regroup bool) {
	regroup = c.regroup
	for i, counter := range c.all {
		regroup = counter.Set(n, true, c.amounts[i]) || regroup
	}
	return regroup
}

func (c *counters) group(n *framework.NodeInfo, keys []uint64) []uint64 {
	for _, counter := range c.all {
		keys = append(keys, counter.Group(n.Row))
	}
	return keys
}
