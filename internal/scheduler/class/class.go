// Package class decides on which node a pod goes. Pods that all rules treat
// alike form a class, and a class keeps a table: for each node whether it will
// do and how good it is. When the next pod of the class comes, only the rows
// of nodes that changed since are worked out anew, and the best row is at the
// root of a tree. The decisions are those of asking every rule about every node
// for every pod.
package class

import (
	"hash/fnv"

	"skiff/internal/scheduler/cache"
	"skiff/internal/scheduler/framework"
)

// Class is the table of a class of equal pods.
type Class struct {
	pod   *framework.PodInfo
	cache *cache.Cache
	seed  uint64
	// next is the number of the first change in the cache not taken in.
	next int

	// rejected is why no node will do, found before looking at any.
	rejected *framework.Status
	// local rules look at one node only; shared ones come after all local ones.
	local, shared []framework.Filter
	observers     []framework.Observer
	scores        []*score
	// only restricts the class to the nodes of these names; excluded is why
	// others will not do.
	only     map[string]bool
	excluded *framework.Status

	// By row: why the node will not do by the local rules and by all, and what
	// breaks ties.
	localWhy, why []*framework.Status
	ties          []uint32
	keys          []int64
	best          tree

	// dirty are the rows to work out anew.
	dirty   []int
	isDirty []bool
}

// absent is why rows without a node will not do.
var absent = framework.NewStatus(framework.Unresolvable, "", "node(s) are gone")

// score is one score plugin's column of the table.
type score struct {
	framework.Scorer
	weight    int64
	normalize func(score, min, max int64) int64
	// shared is set if the score of a node depends on others.
	shared   bool
	feasible framework.FeasibleObserver
	// By row: the score if it is not shared, and the score that takes part, of
	// feasible rows.
	local, raw []int64
	// min and max are the extremes of raw.
	min, max int64
}

// New makes the table of pod's class. It is filled by the first Best.
func New(p *framework.Profile, c *cache.Cache, pod *framework.PodInfo, seed uint64) *Class {
	k := &Class{pod: pod, cache: c, seed: seed, next: -1}
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
				k.restrict(plugin.Name(), names)
			}
		}
		if o, ok := f.(framework.Observer); ok {
			k.observers = append(k.observers, o)
			k.shared = append(k.shared, f)
		} else {
			k.local = append(k.local, f)
		}
	}
	for _, plugin := range p.Score {
		s := plugin.PreScore(pod)
		if s == nil {
			continue
		}
		col := &score{Scorer: s, weight: plugin.Weight}
		if n, ok := s.(framework.Normalizer); ok {
			col.normalize = n.Normalize
		}
		if o, ok := s.(framework.Observer); ok {
			col.shared = true
			k.observers = append(k.observers, o)
		}
		col.feasible, _ = s.(framework.FeasibleObserver)
		k.scores = append(k.scores, col)
	}
	return k
}

func (k *Class) restrict(plugin string, names []string) {
	k.only = make(map[string]bool, len(names))
	for _, name := range names {
		k.only[name] = true
	}
	k.excluded = framework.NewStatus(framework.Unresolvable, plugin, "node(s) didn't satisfy plugin(s) ["+plugin+"]")
}

// Lasting reports whether more pods of the class are to be expected, so that
// it is worth keeping.
func (k *Class) Lasting() bool { return k.rejected == nil && k.only == nil && k.pod.Class != "" }

// Rejected returns why no node will do, if that is known without looking at any.
func (k *Class) Rejected() *framework.Status { return k.rejected }

// Best returns the best node for the next pod of the class, or nil if none
// will do. Among equals the seed decides.
func (k *Class) Best() *framework.NodeInfo {
	if k.rejected != nil {
		return nil
	}
	k.refresh()
	row, ok := k.best.best()
	if !ok {
		return nil
	}
	return k.cache.Rows()[row]
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
