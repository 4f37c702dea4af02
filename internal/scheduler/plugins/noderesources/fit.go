// Package noderesources puts pods where there is room for what they request,
// and prefers nodes that are used little and evenly.
package noderesources

import (
	corev1 "k8s.io/api/core/v1"

	"skiff/internal/scheduler/framework"
)

const fitName = "NodeResourcesFit"

// Fit keeps pods off nodes without enough room, and prefers those with more of
// it (strategy LeastAllocated, CPU and memory with equal weight).
type Fit struct{}

// Name returns the plugin's name.
func (Fit) Name() string { return fitName }

// PreFilter makes the rule for pod.
func (Fit) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	return &fit{want: pod.Requests, known: map[string]*framework.Status{}}, nil
}

type fit struct {
	want framework.Resources
	// known are the statuses given before, by which resources were short.
	known map[string]*framework.Status
}

func (f *fit) Filter(n *framework.NodeInfo) *framework.Status {
	var short []string
	unresolvable := false
	check := func(reason string, want, used, have int64) {
		if want > 0 && want > have-used {
			short = append(short, reason)
			unresolvable = unresolvable || want > have
		}
	}
	if n.Requested.Pods+1 > n.Allocatable.Pods {
		short = append(short, "Too many pods")
	}
	check("Insufficient cpu", f.want.MilliCPU, n.Requested.MilliCPU, n.Allocatable.MilliCPU)
	check("Insufficient memory", f.want.Memory, n.Requested.Memory, n.Allocatable.Memory)
	check("Insufficient ephemeral-storage", f.want.EphemeralStorage, n.Requested.EphemeralStorage, n.Allocatable.EphemeralStorage)
	for name, want := range f.want.Scalar {
		check("Insufficient "+string(name), want, n.Requested.Scalar[name], n.Allocatable.Scalar[name])
	}
	if short == nil {
		return nil
	}
	return f.status(short, unresolvable)
}

func (f *fit) status(short []string, unresolvable bool) *framework.Status {
	key := ""
	code := framework.Unschedulable
	if unresolvable {
		// More than the whole node has: nobody's going would help.
		code, key = framework.Unresolvable, "!"
	}
	for _, reason := range short {
		key += reason + ","
	}
	s := f.known[key]
	if s == nil {
		s = framework.NewStatus(code, fitName, short...)
		f.known[key] = s
	}
	return s
}

// PreScore makes the rule for pod.
func (Fit) PreScore(pod *framework.PodInfo) framework.Scorer {
	return &leastAllocated{pod.NonZero}
}

type leastAllocated struct{ want framework.Resources }

func (s *leastAllocated) Score(n *framework.NodeInfo) int64 {
	var sum, weights int64
	for _, r := range [2][2]int64{
		{n.NonZero.MilliCPU + s.want.MilliCPU, n.Allocatable.MilliCPU},
		{n.NonZero.Memory + s.want.Memory, n.Allocatable.Memory},
	} {
		used, have := r[0], r[1]
		if have == 0 {
			continue
		}
		weights++
		if used <= have {
			sum += (have - used) * framework.MaxScore / have
		}
	}
	if weights == 0 {
		return 0
	}
	return sum / weights
}

// Cures reports whether there may be more room.
func (Fit) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded:
		return fitsEmpty(pod, e.Node)
	case framework.NodeChanged:
		return grew(e.OldNode.Status.Allocatable, e.Node.Status.Allocatable) && fitsEmpty(pod, e.Node)
	case framework.PodGone:
		// Room on other nodes is as it was.
		return e.Host != nil && (&fit{want: pod.Requests, known: map[string]*framework.Status{}}).Filter(e.Host) == nil
	case framework.PodChanged:
		return shrank(&e.OldPod.Requests, &e.Pod.Requests)
	}
	return false
}

func fitsEmpty(pod *framework.PodInfo, node *corev1.Node) bool {
	var n framework.NodeInfo
	n.SetNode(node)
	return (&fit{want: pod.Requests, known: map[string]*framework.Status{}}).Filter(&n) == nil
}

func grew(old, now corev1.ResourceList) bool {
	for name, q := range now {
		if before, ok := old[name]; !ok || q.Cmp(before) > 0 {
			return true
		}
	}
	return false
}

func shrank(old, now *framework.Resources) bool {
	if now.MilliCPU < old.MilliCPU || now.Memory < old.Memory || now.EphemeralStorage < old.EphemeralStorage {
		return true
	}
	for name, v := range old.Scalar {
		if now.Scalar[name] < v {
			return true
		}
	}
	return false
}
