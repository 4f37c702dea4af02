package interpodaffinity

import "skiff/internal/scheduler/framework"

// PreScore makes the rule for pod: it wants to be where it prefers to be, and
// where others prefer it to be.
func (p *Plugin) PreScore(pod *framework.PodInfo) framework.Scorer {
	return &scorer{
		Plugin: p, pod: pod,
		selfish: p.IgnorePreferredTermsOfExistingPods && len(pod.PreferredAffinity)+len(pod.PreferredAntiAffinity) == 0,
	}
}

type scorer struct {
	*Plugin
	pod *framework.PodInfo
	// selfish leaves out what others prefer.
	selfish bool
	// weights are summed up by topology key.
	weights counters
}

func (s *scorer) Observe(n *framework.NodeInfo) (regroup bool) {
	s.weights.begin(n)
	if len(s.pod.PreferredAffinity)+len(s.pod.PreferredAntiAffinity) > 0 {
		for _, o := range n.Pods {
			s.add(s.pod.PreferredAffinity, o, 1)
			s.add(s.pod.PreferredAntiAffinity, o, -1)
		}
	}
	if !s.selfish {
		for _, o := range n.WithTerms {
			if s.HardWeight > 0 {
				for i := range o.Affinity {
					if o.Affinity[i].Matches(s.pod.Pod, s.Namespace) {
						s.weights.add(o.Affinity[i].TopologyKey, s.HardWeight)
					}
				}
			}
			s.add(o.PreferredAffinity, s.pod, 1)
			s.add(o.PreferredAntiAffinity, s.pod, -1)
		}
	}
	return s.weights.end(n)
}

// Group is by the domains of the node.
func (s *scorer) Group(n *framework.NodeInfo, keys []uint64) []uint64 {
	return s.weights.group(n, keys)
}

// add adds the weights of the terms that are about pod.
func (s *scorer) add(terms []framework.Term, pod *framework.PodInfo, sign int64) {
	for i := range terms {
		if terms[i].Matches(pod.Pod, s.Namespace) {
			s.weights.add(terms[i].TopologyKey, sign*terms[i].Weight)
		}
	}
}

func (s *scorer) Score(n *framework.NodeInfo) int64 {
	var score int64
	for _, c := range s.weights.all {
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
