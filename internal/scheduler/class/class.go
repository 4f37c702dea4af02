// Package class decides on which node a pod goes. Pods that all rules treat
// alike form a class, and a class keeps what it found out about the nodes. When
// the next pod of the class comes, only nodes that changed since are asked
// about anew.
//
// Nodes that will do, as far as rules can say that look at one node only, are
// put into groups: rules that compare nodes with each other (spreading,
// affinity to pods, normalized scores) treat all nodes of a group alike, and
// what distinguishes them are scores that only the node itself decides. So the
// best of a group is at the top of a heap, and the best of all is found by
// asking the comparing rules about each group instead of each node. The
// decisions are those of asking every rule about every node for every pod.
package class

import (
	"hash/fnv"

	"skiff/internal/scheduler/cache"
	"skiff/internal/scheduler/framework"
)

// Class is what is known about the nodes for a class of equal pods.
type Class struct {
	pod   *framework.PodInfo
	cache *cache.Cache
	seed  uint64
	// next is the number of the first change in the cache not taken in.
	next int

	// rejected is why no node will do, found before looking at any.
	rejected *framework.Status
	// local rules look at one node only; shared ones come after all local ones.
	local  []framework.Filter
	shared []framework.Filter
	// watching are the shared rules, grouping are they and the shared scores.
	watching, grouping []framework.Observer
	// only restricts the class to the nodes of these names; excluded is why
	// others will not do.
	only     map[string]bool
	excluded *framework.Status

	// own are scores that the node itself decides; compared are the others.
	own      []weighted
	compared []*column

	rows []row
	// reasons counts why nodes will not do by local rules.
	reasons map[*framework.Status]int
	groups  []*group
	byKeys  map[string]*group
	// keys are those of the last group looked for.
	keys []uint64
	text []byte

	best *group
	// dirty are the rows to ask about anew.
	dirty   []int32
	isDirty []bool
}

type weighted struct {
	framework.Scorer
	weight int64
}

// column is a score that only means something in comparison, or depends on
// other nodes.
type column struct {
	weighted
	normalize func(score, min, max int64) int64
	compare   func(groups func(yield func(*framework.NodeInfo, int) bool))
	observer  framework.Observer
	// min and max are the extremes over feasible groups.
	min, max int64
}

// row is a node as the class sees it.
type row struct {
	// why is why the node will not do by local rules; group holds it if it will.
	why   *framework.Status
	group *group
	// place is the index in the group's heap.
	place int32
	// tie decides between nodes of equal score.
	tie uint32
	// score is the weighted sum of the own scores.
	score int64
}

// absent is why rows without a node will not do.
var absent = framework.NewStatus(framework.Unresolvable, "", "node(s) are gone")

// New makes the class of pod. Nodes are looked at by the first Best.
func New(p *framework.Profile, c *cache.Cache, pod *framework.PodInfo, seed uint64) *Class {
	k := &Class{pod: pod, cache: c, seed: seed, next: -1, reasons: map[*framework.Status]int{}, byKeys: map[string]*group{}}
	var restricting []string
	for _, plugin := range p.Filter {
		f, why := plugin.PreFilter(pod)
		if why != nil {
			k.rejected = why
			return k
		}
		if f == nil {
			continue
		}
		if r, ok := f.(framework.Restriction); ok {
			if names, restricted := r.Only(); restricted {
				restricting = append(restricting, plugin.Name())
				if why := k.restrict(restricting, names); why != nil {
					k.rejected = why
					return k
				}
			}
		}
		if o, ok := f.(framework.Observer); ok {
			k.watching = append(k.watching, o)
			k.grouping = append(k.grouping, o)
			k.shared = append(k.shared, f)
		} else {
			k.local = append(k.local, f)
		}
	}
	if len(k.only) == 1 {
		// There is nothing to choose from.
		return k
	}
	for _, plugin := range p.Score {
		if s := plugin.PreScore(pod); s != nil {
			k.addScore(weighted{s, plugin.Weight})
		}
	}
	return k
}

func (k *Class) addScore(w weighted) {
	n, normalizes := w.Scorer.(framework.Normalizer)
	o, observes := w.Scorer.(framework.Observer)
	if !normalizes && !observes {
		k.own = append(k.own, w)
		return
	}
	col := &column{weighted: w, observer: o}
	if normalizes {
		col.normalize = n.Normalize
	}
	if observes {
		k.grouping = append(k.grouping, o)
	}
	if c, ok := w.Scorer.(framework.Comparer); ok {
		col.compare = func(groups func(func(*framework.NodeInfo, int) bool)) { c.Compare(groups) }
	}
	k.compared = append(k.compared, col)
}

// Lasting reports whether more pods of the class are to be expected, so that
// it is worth keeping.
func (k *Class) Lasting() bool {
	return k.rejected == nil && k.only == nil && !k.pod.Lone && k.pod.Class != ""
}

// Rejected returns why no node will do, if that is known without looking at any.
func (k *Class) Rejected() *framework.Status { return k.rejected }

// Best returns the best node for the next pod of the class, or nil if none
// will do. Among equals the seed decides.
func (k *Class) Best() *framework.NodeInfo {
	if k.rejected != nil {
		return nil
	}
	k.refresh()
	if k.best == nil {
		return nil
	}
	return k.cache.Rows()[k.best.heap[0]]
}

// Feasible calls yield with every node that will do and its score.
func (k *Class) Feasible(yield func(n *framework.NodeInfo, score int64) bool) {
	if k.rejected != nil {
		return
	}
	k.refresh()
	nodes := k.cache.Rows()
	for _, g := range k.groups {
		if g.why != nil {
			continue
		}
		for _, i := range g.heap {
			if !yield(nodes[i], g.score+k.rows[i].score) {
				return
			}
		}
	}
}

// Tie is a node's rank among nodes of equal score.
func Tie(seed uint64, node string) uint32 {
	h := fnv.New64a()
	var b [8]byte
	for i := range b {
		b[i] = byte(seed >> (8 * i))
	}
	_, _ = h.Write(b[:])
	_, _ = h.Write([]byte(node))
	sum := h.Sum64()
	return uint32(sum>>32) ^ uint32(sum)
}
