package eviction

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1"
)

// Usage is what a pod, or one of its containers, uses of the node. Disk and
// Inodes are those of writable layers, logs and local volumes.
type Usage struct {
	Memory, Disk, Inodes, PIDs int64
}

// of returns the usage of what the signal is about.
func (u Usage) of(s Signal) int64 {
	switch s.resource() {
	case v1.ResourceMemory:
		return u.Memory
	case inodes:
		return u.Inodes
	case pids:
		return u.PIDs
	}
	return u.Disk
}

// PodUsage is a pod's usage as a whole and that of its containers, by name.
type PodUsage struct {
	Usage
	Containers map[string]Usage
	// EmptyDirs are the bytes in the emptyDir volumes with a limit, by name.
	EmptyDirs map[string]int64
}

// rank sorts pods by who is to go first: one of which nobody knows what it
// uses; then who uses more than it asked for; then by priority, the lower one;
// then by how much more it uses. Numbers of processes are nothing to ask for.
func rank(pods []*v1.Pod, usage map[types.UID]PodUsage, s Signal) {
	type weight struct {
		unknown, exceeds bool
		priority         int32
		excess           int64
	}
	weights := map[types.UID]weight{}
	for _, p := range pods {
		u, known := usage[p.UID]
		excess := u.of(s) - requested(resource.PodRequests(p, resource.PodResourcesOptions{}), s)
		weights[p.UID] = weight{!known, s.resource() != pids && excess > 0, corev1.PodPriority(p), excess}
	}
	slices.SortStableFunc(pods, func(a, b *v1.Pod) int {
		x, y := weights[a.UID], weights[b.UID]
		return cmp.Or(
			first(x.unknown, y.unknown),
			first(x.exceeds, y.exceeds),
			cmp.Compare(x.priority, y.priority),
			cmp.Compare(y.excess, x.excess),
		)
	})
}

// requested returns how much of the signal's resource a list of requests has.
func requested(requests v1.ResourceList, s Signal) int64 {
	q := requests[s.resource()]
	return q.Value()
}

// first sorts what is true before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
