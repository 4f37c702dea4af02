package class

import (
	"math"

	"skiff/internal/scheduler/framework"
)

// refresh takes in what changed in the cache since the last time.
func (k *Class) refresh() {
	rows := k.cache.Rows()
	k.grow(len(rows))
	k.collect()
	if len(k.dirty) == 0 {
		return
	}
	others := false
	for _, row := range k.dirty {
		k.isDirty[row] = false
		others = k.observe(rows[row]) || others
		k.workOut(rows[row])
	}
	if others {
		for row := range rows {
			k.judge(rows[row])
		}
		k.scoreAll(rows)
		return
	}
	for _, row := range k.dirty {
		others = k.judge(rows[row]) || others
	}
	if others {
		k.scoreAll(rows)
		return
	}
	k.scoreDirty(rows)
}

// collect finds the rows to work out anew.
func (k *Class) collect() {
	k.dirty = k.dirty[:0]
	changes, known := k.cache.Since(k.next)
	k.next = k.cache.Now()
	if !known {
		for row := range k.why {
			k.dirty = append(k.dirty, row)
		}
		return
	}
	for _, row := range changes {
		if !k.isDirty[row] {
			k.isDirty[row] = true
			k.dirty = append(k.dirty, int(row))
		}
	}
}

func (k *Class) grow(n int) {
	if len(k.why) == n && k.best.nodes != nil {
		return
	}
	for len(k.why) < n {
		k.why = append(k.why, absent)
		k.localWhy = append(k.localWhy, absent)
		k.isDirty = append(k.isDirty, false)
		k.ties = append(k.ties, 0)
		k.keys = append(k.keys, none)
		for _, s := range k.scores {
			s.local = append(s.local, 0)
			s.raw = append(s.raw, framework.NoScore)
		}
	}
	k.best.reset(k.keys)
}

func (k *Class) observe(n *framework.NodeInfo) (others bool) {
	for _, o := range k.observers {
		others = o.Observe(n) || others
	}
	return others
}

// workOut asks the rules that look at one node only.
func (k *Class) workOut(n *framework.NodeInfo) {
	why := k.checkLocal(n)
	k.localWhy[n.Row] = why
	if why != nil {
		return
	}
	k.ties[n.Row] = Tie(k.seed, n.Node.Name)
	for _, s := range k.scores {
		if !s.shared {
			s.local[n.Row] = s.Score(n)
		}
	}
}

func (k *Class) checkLocal(n *framework.NodeInfo) *framework.Status {
	switch {
	case n.Node == nil:
		return absent
	case k.only != nil && !k.only[n.Node.Name]:
		return k.excluded
	}
	why := firstOf(k.local, n)
	if why == nil {
		if view := k.withNominated(n); view != nil {
			why = firstOf(k.local, view)
		}
	}
	return why
}

// withNominated returns the node as it will be when the pods have come for
// which room is being made, as far as they go before this class; nil if there
// are none.
func (k *Class) withNominated(n *framework.NodeInfo) *framework.NodeInfo {
	var view *framework.NodeInfo
	for _, p := range n.Nominated {
		if p.Priority < k.pod.Priority {
			continue
		}
		if view == nil {
			view = n.Clone()
		}
		view.Add(p)
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

// judge asks the shared rules too. It reports whether the scores of other
// nodes may have changed because this one became feasible or ceased to be.
func (k *Class) judge(n *framework.NodeInfo) (others bool) {
	why := k.localWhy[n.Row]
	if why == nil {
		why = firstOf(k.shared, n)
	}
	was := k.why[n.Row]
	k.why[n.Row] = why
	if (was == nil) == (why == nil) {
		return false
	}
	for _, s := range k.scores {
		if s.feasible != nil {
			others = s.feasible.SetFeasible(n, why == nil) || others
		}
	}
	return others
}

// part returns the score of the row that takes part in the comparison.
func (k *Class) part(s *score, n *framework.NodeInfo) int64 {
	switch {
	case k.why[n.Row] != nil:
		return framework.NoScore
	case s.shared:
		return s.Score(n)
	}
	return s.local[n.Row]
}

// scoreDirty scores the dirty rows, and all of them if that moves the extremes
// that scores are compared by.
func (k *Class) scoreDirty(rows []*framework.NodeInfo) {
	moved := false
	for _, s := range k.scores {
		rescan := false
		for _, row := range k.dirty {
			old, now := s.raw[row], k.part(s, rows[row])
			s.raw[row] = now
			if old == now || s.normalize == nil {
				continue
			}
			// Only a value at or beyond an extreme can move it.
			rescan = rescan || now != framework.NoScore && (now < s.min || now > s.max) ||
				old != framework.NoScore && (old == s.min || old == s.max)
		}
		if rescan {
			moved = s.extremes() || moved
		}
	}
	if moved {
		k.total()
		return
	}
	for _, row := range k.dirty {
		k.keys[row] = k.key(row)
		k.best.set(row, k.keys[row])
	}
}

// scoreAll scores all rows.
func (k *Class) scoreAll(rows []*framework.NodeInfo) {
	for _, s := range k.scores {
		for row := range rows {
			s.raw[row] = k.part(s, rows[row])
		}
		if s.normalize != nil {
			s.extremes()
		}
	}
	k.total()
}

// extremes finds the extremes of the column; it reports whether they moved.
func (s *score) extremes() (moved bool) {
	lowest, highest := int64(math.MaxInt64), int64(framework.NoScore)
	for _, raw := range s.raw {
		if raw != framework.NoScore {
			lowest, highest = min(lowest, raw), max(highest, raw)
		}
	}
	moved = lowest != s.min || highest != s.max
	s.min, s.max = lowest, highest
	return moved
}

func (k *Class) total() {
	for row := range k.keys {
		k.keys[row] = k.key(row)
	}
	k.best.reset(k.keys)
}

// key is the row's total score, and below it what breaks ties.
func (k *Class) key(row int) int64 {
	if k.why[row] != nil {
		return none
	}
	var total int64
	for _, s := range k.scores {
		v := s.raw[row]
		switch {
		case v == framework.NoScore:
			v = 0
		case s.normalize != nil:
			v = s.normalize(v, s.min, s.max)
		}
		total += s.weight * v
	}
	return total<<32 | int64(k.ties[row])
}
