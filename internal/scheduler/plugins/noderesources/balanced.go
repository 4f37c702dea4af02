package noderesources

import (
	"math"

	"skiff/internal/scheduler/framework"
)

// BalancedAllocation prefers nodes of which CPU and memory are used to equal
// parts.
type BalancedAllocation struct{}

// Name returns the plugin's name.
func (BalancedAllocation) Name() string { return "NodeResourcesBalancedAllocation" }

// PreScore makes the rule for pod. Pods that request nothing do not change the
// balance, so that they would all go to the same node.
func (BalancedAllocation) PreScore(pod *framework.PodInfo) framework.Scorer {
	if pod.Requests.MilliCPU == 0 && pod.Requests.Memory == 0 {
		return nil
	}
	return &balanced{pod.Requests}
}

type balanced struct{ want framework.Resources }

func (s *balanced) Score(n *framework.NodeInfo) int64 {
	if n.Allocatable.MilliCPU == 0 || n.Allocatable.Memory == 0 {
		return framework.MaxScore
	}
	cpu := min(1, float64(n.Requested.MilliCPU+s.want.MilliCPU)/float64(n.Allocatable.MilliCPU))
	memory := min(1, float64(n.Requested.Memory+s.want.Memory)/float64(n.Allocatable.Memory))
	// The standard deviation of two numbers is half their distance.
	return int64((1 - math.Abs(cpu-memory)/2) * framework.MaxScore)
}
