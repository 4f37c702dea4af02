package podtopologyspread

import (
	"iter"
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/topology"
)

// PreScore makes the rule for pod. Pods without constraints of their own are
// spread over nodes and zones with the others of their service or controller.
func (p *Plugin) PreScore(pod *framework.PodInfo) framework.Scorer {
	soft, system := p.constraints(pod.Pod, corev1.ScheduleAnyway)
	if len(soft) == 0 {
		return nil
	}
	return &scorer{
		observer: observer{pod: pod.Pod, affinity: nodeaffinity.GetRequiredNodeAffinity(pod.Pod), constraints: soft, requireAll: !system},
		weights:  make([]float64, len(soft)),
	}
}

// scorer scores a node by how many equal pods its domains have, each kind of
// domain weighted by the logarithm of how many of them there are.
type scorer struct {
	observer
	// weights are by constraint.
	weights []float64
}

// Group is by the domains of the node, and by the equal pods on it.
func (s *scorer) Group(n *framework.NodeInfo, keys []uint64) []uint64 {
	for _, c := range s.constraints {
		if c.Key() == corev1.LabelHostname {
			_, ok := c.Sum(n.Row)
			keys = append(keys, uint64(c.Value(n.Row))<<1|bit(ok))
		} else {
			keys = append(keys, c.Group(n.Row))
		}
	}
	return keys
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// Compare finds out how many domains there are with feasible nodes.
func (s *scorer) Compare(groups iter.Seq2[*framework.NodeInfo, int]) {
	scored := 0
	for n, count := range groups {
		if s.takesPart(n) {
			scored += count
		}
	}
	for i, c := range s.constraints {
		size := scored
		if c.Key() != corev1.LabelHostname {
			size = s.domains(c.Counter, groups)
		}
		s.weights[i] = math.Log(float64(size + 2))
	}
}

func (s *scorer) takesPart(n *framework.NodeInfo) bool { return !s.requireAll || s.hasAll(n) }

// domains counts the domains that feasible nodes are in; nodes in none count
// as one.
func (s *scorer) domains(c *topology.Counter, groups iter.Seq2[*framework.NodeInfo, int]) int {
	count := 0
	shared := make(map[int32]bool, 8)
	for n, size := range groups {
		switch {
		case !s.takesPart(n):
		case c.Alone(n.Row):
			count += size
		default:
			shared[c.Domain(n.Row)] = true
		}
	}
	return count + len(shared)
}

func (s *scorer) Score(n *framework.NodeInfo) int64 {
	if !s.takesPart(n) {
		return framework.NoScore
	}
	var score float64
	for i, c := range s.constraints {
		count, ok := c.Sum(n.Row)
		if !ok {
			continue
		}
		if c.Key() == corev1.LabelHostname {
			count = c.Value(n.Row)
		}
		score += float64(count)*s.weights[i] + float64(c.maxSkew-1)
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
