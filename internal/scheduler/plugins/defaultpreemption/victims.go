package defaultpreemption

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/scheduler/framework"
)

// candidate is a node with the pods that would have to go, the most important
// one first.
type candidate struct {
	node    *framework.NodeInfo
	victims []*framework.PodInfo
	// violations is how many of them a disruption budget protects.
	violations int
}

// try finds out which pods would have to go: all less important ones, but for
// those that can stay after all, tried from the most important one on. Those
// that a budget protects are tried first.
func (p *Plugin) try(pod *framework.PodInfo, n *framework.NodeInfo, t framework.Trial, b *budgets) (*candidate, *framework.Status) {
	view := n.Clone()
	var potential []*framework.PodInfo
	for _, o := range n.Pods {
		if o.Priority < pod.Priority {
			potential = append(potential, o)
			view.Remove(o.UID)
		}
	}
	if len(potential) == 0 {
		return nil, noVictims
	}
	if why := fits(pod, n, view, t); why != nil {
		return nil, why
	}
	slices.SortStableFunc(potential, p.moreImportant)
	protected, free := b.split(potential)
	c := &candidate{node: n}
	reprieve := func(o *framework.PodInfo) bool {
		view.Add(o)
		if fits(pod, n, view, t) == nil {
			return true
		}
		view.Remove(o.UID)
		c.victims = append(c.victims, o)
		return false
	}
	for _, o := range protected {
		if !reprieve(o) {
			c.violations++
		}
	}
	for _, o := range free {
		reprieve(o)
	}
	if len(c.victims) == 0 {
		// Something else is in the way.
		return nil, noVictims
	}
	slices.SortStableFunc(c.victims, p.moreImportant)
	return c, nil
}

// fits returns nil if the pod fits, also together with pods for which room is
// being made and which go before it.
func fits(pod *framework.PodInfo, n, view *framework.NodeInfo, t framework.Trial) *framework.Status {
	var full *framework.NodeInfo
	for _, o := range n.Nominated {
		if o.UID != pod.UID && o.Priority >= pod.Priority {
			if full == nil {
				full = view.Clone()
			}
			full.Add(o)
		}
	}
	if full != nil {
		if why := t.Fits(n, full); why != nil {
			return why
		}
	}
	return t.Fits(n, view)
}

// moreImportant orders by priority, and then those first that run longer.
func (p *Plugin) moreImportant(a, b *framework.PodInfo) int {
	if a.Priority != b.Priority {
		if a.Priority > b.Priority {
			return -1
		}
		return 1
	}
	return p.started(a.Pod).Time.Compare(p.started(b.Pod).Time)
}

func (p *Plugin) started(pod *corev1.Pod) metav1.Time {
	if pod.Status.StartTime != nil {
		return *pod.Status.StartTime
	}
	return p.Now()
}

// cheapest returns the candidate that costs least: by violated budgets, the
// highest priority of a victim, the sum of priorities, the number of victims,
// and at last by how short the longest running one of the highest priority has
// been running.
func (p *Plugin) cheapest(all []*candidate) *candidate {
	best := all[0]
	for _, c := range all[1:] {
		if p.cheaper(c, best) {
			best = c
		}
	}
	return best
}

func (p *Plugin) cheaper(a, b *candidate) bool {
	if a.violations != b.violations {
		return a.violations < b.violations
	}
	if len(a.victims) == 0 || len(b.victims) == 0 {
		return len(a.victims) < len(b.victims)
	}
	if x, y := a.victims[0].Priority, b.victims[0].Priority; x != y {
		return x < y
	}
	if x, y := a.sum(), b.sum(); x != y {
		return x < y
	}
	if len(a.victims) != len(b.victims) {
		return len(a.victims) < len(b.victims)
	}
	// The victims of the highest priority come first, the longest running one
	// before the others.
	x, y := p.started(a.victims[0].Pod), p.started(b.victims[0].Pod)
	return x.After(y.Time)
}

// sum adds up the priorities, moved so that none is negative: many pods of
// negative priority are not cheaper than few.
func (c *candidate) sum() int64 {
	var sum int64
	for _, v := range c.victims {
		sum += int64(v.Priority) + math.MaxInt32 + 1
	}
	return sum
}
