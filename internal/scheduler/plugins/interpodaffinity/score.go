package interpodaffinity

import "skiff/internal/scheduler/framework"

// hardWeight is what a required term of another pod's affinity counts for.
const hardWeight = 1

// PreScore makes the rule for pod: it wants to be where it prefers to be, and
// where others prefer it to be.
func (p *Plugin) PreScore(pod *framework.PodInfo) framework.Scorer {
	return &scorer{Plugin: p, pod: pod, weights: newCounters()}
}

type scorer struct {
	*Plugin
	pod *framework.PodInfo
	// weights are summed up by topology key.
	weights *counters
}

func (s *scorer) Observe(n *framework.NodeInfo) bool {
	amounts := map[string]int64{}
	if len(s.pod.PreferredAffinity)+len(s.pod.PreferredAntiAffinity) > 0 {
		for _, o := range n.Pods {
			s.add(amounts, s.pod.PreferredAffinity, o, 1)
			s.add(amounts, s.pod.PreferredAntiAffinity, o, -1)
		}
	}
	for _, o := range n.WithTerms {
		for i := range o.Affinity {
			if o.Affinity[i].Matches(s.pod.Pod, s.Namespace) {
				amounts[o.Affinity[i].TopologyKey] += hardWeight
			}
		}
		s.add(amounts, o.PreferredAffinity, s.pod, 1)
		s.add(amounts, o.PreferredAntiAffinity, s.pod, -1)
	}
	return s.weights.observe(n, amounts)
}

// add adds the weights of the terms that are about pod.
func (s *scorer) add(amounts map[string]int64, terms []framework.Term, pod *framework.PodInfo, sign int64) {
	for i := range terms {
		if terms[i].Matches(pod.Pod, s.Namespace) {
			amounts[terms[i].TopologyKey] += sign * terms[i].Weight
		}
	}
}

func (s *scorer) Score(n *framework.NodeInfo) int64 {
	var score int64
	for _, c := range s.weights.byKey {
		if sum, ok := c.Sum(n.Row); ok {
			score += sum
		}
	}
	return score
}

// Normalize stretches the scores over the whole range.
func (s *scorer) Normalize(score, min, max int64) int64 {
	if max == min {
		return 0
	}
	return int64(framework.MaxScore * (float64(score-min) / float64(max-min)))
}
