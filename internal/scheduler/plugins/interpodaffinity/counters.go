package interpodaffinity

import (
	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/topology"
)

// counters are counters by topology key, made when a key first appears.
type counters struct {
	byKey map[string]*topology.Counter
	// nodes are all rows seen, for counters that are made later.
	nodes []*framework.NodeInfo
}

func newCounters() *counters {
	return &counters{byKey: make(map[string]*topology.Counter)}
}

// observe takes in a node with its amounts by topology key.
func (c *counters) observe(n *framework.NodeInfo, amounts map[string]int64) (others bool) {
	for len(c.nodes) <= n.Row {
		c.nodes = append(c.nodes, nil)
	}
	c.nodes[n.Row] = n
	for key := range amounts {
		if c.byKey[key] != nil {
			continue
		}
		counter := topology.NewCounter(key)
		for _, o := range c.nodes {
			if o != nil {
				counter.Set(o, true, 0)
			}
		}
		c.byKey[key] = counter
		others = true
	}
	for key, counter := range c.byKey {
		others = counter.Set(n, true, amounts[key]) || others
	}
	return others
}
