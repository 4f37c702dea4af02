package noderesources

import (
	"math"

	"skiff/internal/scheduler/framework"
)

// BalancedAllocation prefers nodes of which all resources are used to equal
// parts. Without Resources these are CPU and memory.
type BalancedAllocation struct {
	Resources []Resource
	// Devices are those of drivers; nil means that there are none.
	Devices Devices
}

// Name returns the plugin's name.
func (BalancedAllocation) Name() string { return "NodeResourcesBalancedAllocation" }

// PreScore makes the rule for pod. Pods that request nothing do not change the
// balance, so that they would all go to the same node.
func (b BalancedAllocation) PreScore(pod *framework.PodInfo) framework.Scorer {
	s := &balanced{newAllocation(b.Resources, b.Devices, pod, true)}
	for _, want := range s.want {
		if want > 0 {
			return s
		}
	}
	return nil
}

type balanced struct{ allocation }

// Score falls with the standard deviation of the used parts.
func (s *balanced) Score(n *framework.NodeInfo) int64 {
	var count, sum float64
	var first, last float64
	s.of(n, func(used, have, _ int64) {
		last = min(1, float64(used)/float64(have))
		if count == 0 {
			first = last
		}
		sum += last
		count++
	})
	deviation := 0.0
	switch {
	case count == 2:
		deviation = math.Abs(first-last) / 2
	case count > 2:
		mean, squares := sum/count, 0.0
		s.of(n, func(used, have, _ int64) {
			part := min(1, float64(used)/float64(have))
			squares += (part - mean) * (part - mean)
		})
		deviation = math.Sqrt(squares / count)
	}
	return int64((1 - deviation) * framework.MaxScore)
}
