package podtopologyspread

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/topology"
)

// PreScore makes the rule for pod. Pods without constraints of their own are
// spread over nodes and zones with the others of their service or controller.
func (p *Plugin) PreScore(pod *framework.PodInfo) framework.Scorer {
	s := &scorer{observer: observer{pod: pod.Pod, affinity: nodeaffinity.GetRequiredNodeAffinity(pod.Pod), requireAll: true}}
	if len(pod.Spec.TopologySpreadConstraints) > 0 {
		s.constraints = constraints(pod.Pod, corev1.ScheduleAnyway)
	} else if selector := p.DefaultSelector(pod.Pod); !selector.Empty() {
		// Nodes without a zone still take part in spreading over nodes.
		s.requireAll = false
		s.constraints = []*constraint{
			{Counter: topology.NewCounter(corev1.LabelHostname), maxSkew: 3, selector: selector, honorAffinity: true},
			{Counter: topology.NewCounter(corev1.LabelTopologyZone), maxSkew: 5, selector: selector, honorAffinity: true},
		}
	}
	if len(s.constraints) == 0 {
		return nil
	}
	s.domains = make([]map[int32]int, len(s.constraints))
	for i := range s.domains {
		s.domains[i] = make(map[int32]int)
	}
	return s
}

// scorer scores a node by how many equal pods its domains have, each kind of
// domain weighted by the logarithm of how many of them there are.
type scorer struct {
	observer
	// domains are, by constraint, the domains with feasible nodes and how many.
	domains []map[int32]int
	// By row: whether the node is feasible, and the domains it was then counted
	// in, unless it lacks one.
	feasible []bool
	in       [][]int32
	// scored is how many feasible nodes take part.
	scored int
}

// Observe counts the pods, and follows feasible nodes from domain to domain.
func (s *scorer) Observe(n *framework.NodeInfo) (others bool) {
	others = s.observer.Observe(n)
	for len(s.in) <= n.Row {
		s.in, s.feasible = append(s.in, nil), append(s.feasible, false)
	}
	if s.feasible[n.Row] && !slices.Equal(s.in[n.Row], s.domainsOf(n)) {
		s.leave(n)
		s.enter(n)
		return true
	}
	return others
}

// domainsOf returns the domains to count n in, or nil if it takes no part.
func (s *scorer) domainsOf(n *framework.NodeInfo) []int32 {
	if n.Node == nil || s.requireAll && !s.hasAll(n) {
		return nil
	}
	in := make([]int32, len(s.constraints))
	for i, c := range s.constraints {
		in[i] = c.Domain(n.Row)
	}
	return in
}

// SetFeasible counts the domains that have feasible nodes.
func (s *scorer) SetFeasible(n *framework.NodeInfo, feasible bool) (others bool) {
	before := s.sizes()
	s.feasible[n.Row] = feasible
	if feasible {
		s.enter(n)
	} else {
		s.leave(n)
	}
	return before != s.sizes()
}

// sizes returns what the weights depend on, as one number: each change of a
// feasible node moves every size in the same direction.
func (s *scorer) sizes() (sum int) {
	for i := range s.constraints {
		sum += s.size(i)
	}
	return sum
}

func (s *scorer) size(i int) int {
	if s.constraints[i].Key() == corev1.LabelHostname {
		return s.scored
	}
	return len(s.domains[i])
}

func (s *scorer) enter(n *framework.NodeInfo) {
	in := s.domainsOf(n)
	if in == nil {
		return
	}
	for i, domain := range in {
		s.domains[i][domain]++
	}
	s.in[n.Row] = in
	s.scored++
}

func (s *scorer) leave(n *framework.NodeInfo) {
	if s.in[n.Row] == nil {
		return
	}
	for i, domain := range s.in[n.Row] {
		if s.domains[i][domain]--; s.domains[i][domain] == 0 {
			delete(s.domains[i], domain)
		}
	}
	s.in[n.Row] = nil
	s.scored--
}

func (s *scorer) Score(n *framework.NodeInfo) int64 {
	if s.in[n.Row] == nil {
		return framework.NoScore
	}
	var score float64
	for i, c := range s.constraints {
		count, ok := c.Sum(n.Row)
		if !ok {
			continue
		}
		score += float64(count)*math.Log(float64(s.size(i)+2)) + float64(c.maxSkew-1)
	}
	return int64(math.Round(score))
}

// Normalize turns the scores around: fewer pods are better.
func (s *scorer) Normalize(score, min, max int64) int64 {
	if max == 0 {
		return framework.MaxScore
	}
	return framework.MaxScore * (max + min - score) / max
}
