package class

import (
	"math"

	"skiff/internal/scheduler/framework"
)

// refresh takes in what changed in the cache since the last time.
func (k *Class) refresh() {
	nodes := k.cache.Rows()
	k.grow(len(nodes))
	k.collect()
	if len(k.dirty) == 0 {
		return
	}
	regroup := false
	for _, i := range k.dirty {
		k.isDirty[i] = false
		for _, o := range k.grouping {
			regroup = o.Observe(nodes[i]) || regroup
		}
	}
	for _, i := range k.dirty {
		k.ask(nodes[i])
	}
	if regroup {
		for i := range k.rows {
			if k.rows[i].group != nil {
				k.join(nodes[i])
			}
		}
	}
	k.judge(nodes)
}

// collect finds the rows to ask about anew.
func (k *Class) collect() {
	k.dirty = k.dirty[:0]
	changes, known := k.cache.Since(k.next)
	k.next = k.cache.Now()
	if !known {
		for i := range k.rows {
			k.dirty = append(k.dirty, int32(i))
		}
		return
	}
	for _, i := range changes {
		if !k.isDirty[i] {
			k.isDirty[i] = true
			k.dirty = append(k.dirty, i)
		}
	}
}

func (k *Class) grow(n int) {
	for len(k.rows) < n {
		k.rows = append(k.rows, row{why: absent})
		k.isDirty = append(k.isDirty, false)
	}
}

// ask asks the rules that look at one node only, and puts the node into its
// group if it will do.
func (k *Class) ask(n *framework.NodeInfo) {
	r := &k.rows[n.Row]
	k.count(r.why, -1)
	r.why = k.check(n)
	k.count(r.why, 1)
	if r.why != nil {
		k.leave(n.Row)
		return
	}
	r.score = 0
	for _, s := range k.own {
		r.score += s.weight * s.Score(n)
	}
	r.tie = Tie(k.seed, n.Node.Name)
	k.join(n)
}

func (k *Class) count(why *framework.Status, by int) {
	if why == nil || why == absent {
		return
	}
	if k.reasons[why] += by; k.reasons[why] == 0 {
		delete(k.reasons, why)
	}
}

func (k *Class) check(n *framework.NodeInfo) *framework.Status {
	switch {
	case n.Node == nil:
		return absent
	case k.only != nil && !k.only[n.Node.Name]:
		return k.excluded
	}
	why := firstOf(k.local, n)
	if why == nil && k.awaits(n) {
		why = firstOf(k.local, k.withNominated(n))
	}
	return why
}

// awaits reports whether room is being made on n for pods that go before this
// class.
func (k *Class) awaits(n *framework.NodeInfo) bool {
	for _, p := range n.Nominated {
		if p.Priority >= k.pod.Priority {
			return true
		}
	}
	return false
}

// withNominated returns the node as it will be when the pods have come that it
// awaits.
func (k *Class) withNominated(n *framework.NodeInfo) *framework.NodeInfo {
	view := n.Clone()
	for _, p := range n.Nominated {
		if p.Priority >= k.pod.Priority {
			view.Add(p)
		}
	}
	return view
}

func firstOf(rules []framework.Filter, n *framework.NodeInfo) *framework.Status {
	for _, r := range rules {
		if why := r.Filter(n); why != nil {
			return why
		}
	}
	return nil
}

// checkShared asks the shared rules about the node as in view.
func (k *Class) checkShared(n, view *framework.NodeInfo) *framework.Status {
	if len(k.shared) == 0 {
		return nil
	}
	for _, o := range k.watching {
		o.Observe(view)
	}
	why := firstOf(k.shared, view)
	for _, o := range k.watching {
		o.Observe(n)
	}
	return why
}

// judge asks the comparing rules about every group and finds the best one.
func (k *Class) judge(nodes []*framework.NodeInfo) {
	for _, g := range k.groups {
		n := nodes[g.heap[0]]
		g.why = firstOf(k.shared, n)
		if g.why == nil && k.awaits(n) {
			g.why = k.checkShared(n, k.withNominated(n))
		}
		g.score = 0
	}
	for i, c := range k.compared {
		k.compare(i, c, nodes)
	}
	k.best = nil
	for _, g := range k.groups {
		if g.why == nil && (k.best == nil || k.beats(g, k.best)) {
			k.best = g
		}
	}
}

func (k *Class) beats(a, b *group) bool {
	x, y := &k.rows[a.heap[0]], &k.rows[b.heap[0]]
	if s, t := a.score+x.score, b.score+y.score; s != t {
		return s > t
	}
	return x.tie > y.tie || x.tie == y.tie && a.heap[0] < b.heap[0]
}

// compare adds the i-th compared score to the groups that will do.
func (k *Class) compare(i int, c *column, nodes []*framework.NodeInfo) {
	if c.compare != nil {
		c.compare(func(yield func(*framework.NodeInfo, int) bool) {
			for _, g := range k.groups {
				if g.why == nil && !yield(nodes[g.heap[0]], len(g.heap)) {
					return
				}
			}
		})
	}
	c.min, c.max = math.MaxInt64, framework.NoScore
	for _, g := range k.groups {
		if g.why != nil {
			continue
		}
		g.raw[i] = c.Score(nodes[g.heap[0]])
		if g.raw[i] != framework.NoScore {
			c.min, c.max = min(c.min, g.raw[i]), max(c.max, g.raw[i])
		}
	}
	for _, g := range k.groups {
		v := g.raw[i]
		switch {
		case g.why != nil || v == framework.NoScore:
			continue
		case c.normalize != nil:
			v = c.normalize(v, c.min, c.max)
		}
		g.score += c.weight * v
	}
}
