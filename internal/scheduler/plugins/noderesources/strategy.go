package noderesources

import (
	"math"

	"skiff/internal/scheduler/framework"
)

// StrategyType says which nodes Fit prefers.
type StrategyType string

// The strategies.
const (
	// LeastAllocated prefers nodes with much room. It is the default.
	LeastAllocated StrategyType = "LeastAllocated"
	// MostAllocated prefers nodes with little room.
	MostAllocated StrategyType = "MostAllocated"
	// RequestedToCapacityRatio prefers as a function of utilization says.
	RequestedToCapacityRatio StrategyType = "RequestedToCapacityRatio"
)

// Strategy is how Fit scores. The zero value is LeastAllocated of CPU and
// memory.
type Strategy struct {
	Type      StrategyType
	Resources []Resource
	// Shape is the function of RequestedToCapacityRatio.
	Shape Shape
}

// Shape is a function that is linear between its points, which are ordered by
// utilization.
type Shape []Point

// Point is the score, between 0 and framework.MaxScore, of a utilization in
// percent.
type Point struct{ Utilization, Score int64 }

// At returns the score of a utilization.
func (s Shape) At(utilization int64) int64 {
	for i, p := range s {
		if utilization > p.Utilization {
			continue
		}
		if i == 0 {
			return p.Score
		}
		q := s[i-1]
		return q.Score + (p.Score-q.Score)*(utilization-q.Utilization)/(p.Utilization-q.Utilization)
	}
	return s[len(s)-1].Score
}

// PreScore makes the rule for pod.
func (f Fit) PreScore(pod *framework.PodInfo) framework.Scorer {
	s := &scorer{allocation: newAllocation(f.Strategy.Resources, f.Devices, pod, f.Strategy.Type == RequestedToCapacityRatio)}
	switch f.Strategy.Type {
	case MostAllocated:
		s.score = most
	case RequestedToCapacityRatio:
		return &ratioScorer{s.allocation, f.Strategy.Shape}
	default:
		s.score = least
	}
	return s
}

// scorer scores by the weighted mean of the resources' scores.
type scorer struct {
	allocation
	score func(used, have int64) int64
}

func least(used, have int64) int64 {
	if used > have {
		return 0
	}
	return (have - used) * framework.MaxScore / have
}

func most(used, have int64) int64 {
	// Containers that request nothing are counted all the same: it may be more
	// than there is.
	return min(used, have) * framework.MaxScore / have
}

func (s *scorer) Score(n *framework.NodeInfo) int64 {
	var sum, weights int64
	s.of(n, func(used, have, weight int64) {
		sum += weight * s.score(used, have)
		weights += weight
	})
	if weights == 0 {
		return 0
	}
	return sum / weights
}

// ratioScorer leaves resources out of the mean of which the score is 0.
type ratioScorer struct {
	allocation
	shape Shape
}

func (s *ratioScorer) Score(n *framework.NodeInfo) int64 {
	var sum, weights int64
	s.of(n, func(used, have, weight int64) {
		if score := s.shape.At(min(used, have) * 100 / have); score > 0 {
			sum += weight * score
			weights += weight
		}
	})
	if weights == 0 {
		return 0
	}
	return int64(math.Round(float64(sum) / float64(weights)))
}
