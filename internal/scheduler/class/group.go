package class

import (
	"encoding/binary"

	"skiff/internal/scheduler/framework"
)

// group is nodes that the comparing rules treat alike. It is never empty.
type group struct {
	keys string
	// place is the index in the class's list of groups.
	place int
	// heap has the row with the highest own score at its top.
	heap []int32
	// why is why the nodes will not do by shared rules; raw are the scores by
	// column, and score their weighted and normalized sum.
	why   *framework.Status
	raw   []int64
	score int64
}

// alone marks the keys of a node that is a group of its own.
const alone = ^uint64(0)

// join puts the row into the group it belongs to.
func (k *Class) join(n *framework.NodeInfo) {
	k.keys = k.keys[:0]
	for _, o := range k.grouping {
		k.keys = o.Group(n, k.keys)
	}
	for _, c := range k.compared {
		if c.observer == nil {
			k.keys = append(k.keys, uint64(c.Score(n)))
		}
	}
	if len(k.shared) > 0 && k.awaits(n) {
		// The node is judged with the pods that are to come.
		k.keys = append(k.keys, alone, uint64(n.Row))
	}
	k.text = k.text[:0]
	for _, key := range k.keys {
		k.text = binary.LittleEndian.AppendUint64(k.text, key)
	}
	r := &k.rows[n.Row]
	if r.group != nil && r.group.keys == string(k.text) {
		r.group.fix(k.rows, int(r.place))
		return
	}
	k.leave(n.Row)
	g := k.byKeys[string(k.text)]
	if g == nil {
		g = &group{keys: string(k.text), place: len(k.groups), raw: make([]int64, len(k.compared))}
		k.byKeys[g.keys] = g
		k.groups = append(k.groups, g)
	}
	r.group = g
	g.push(k.rows, int32(n.Row))
}

// leave takes the row out of its group, if it is in one.
func (k *Class) leave(i int) {
	r := &k.rows[i]
	g := r.group
	if g == nil {
		return
	}
	r.group = nil
	g.remove(k.rows, int(r.place))
	if len(g.heap) > 0 {
		return
	}
	delete(k.byKeys, g.keys)
	last := len(k.groups) - 1
	k.groups[g.place] = k.groups[last]
	k.groups[g.place].place = g.place
	k.groups[last] = nil
	k.groups = k.groups[:last]
}

// better reports whether row a is to be chosen before b of the same group.
func better(rows []row, a, b int32) bool {
	x, y := &rows[a], &rows[b]
	if x.score != y.score {
		return x.score > y.score
	}
	return x.tie > y.tie || x.tie == y.tie && a < b
}

func (g *group) push(rows []row, i int32) {
	rows[i].place = int32(len(g.heap))
	g.heap = append(g.heap, i)
	g.up(rows, len(g.heap)-1)
}

func (g *group) remove(rows []row, at int) {
	last := len(g.heap) - 1
	g.swap(rows, at, last)
	g.heap = g.heap[:last]
	if at < last {
		g.fix(rows, at)
	}
}

func (g *group) fix(rows []row, at int) {
	if !g.down(rows, at) {
		g.up(rows, at)
	}
}

func (g *group) swap(rows []row, a, b int) {
	g.heap[a], g.heap[b] = g.heap[b], g.heap[a]
	rows[g.heap[a]].place, rows[g.heap[b]].place = int32(a), int32(b)
}

func (g *group) up(rows []row, at int) {
	for at > 0 {
		parent := (at - 1) / 2
		if !better(rows, g.heap[at], g.heap[parent]) {
			return
		}
		g.swap(rows, at, parent)
		at = parent
	}
}

// down reports whether the row moved.
func (g *group) down(rows []row, at int) bool {
	start := at
	for {
		child := 2*at + 1
		if child >= len(g.heap) {
			break
		}
		if child+1 < len(g.heap) && better(rows, g.heap[child+1], g.heap[child]) {
			child++
		}
		if !better(rows, g.heap[child], g.heap[at]) {
			break
		}
		g.swap(rows, at, child)
		at = child
	}
	return at > start
}
