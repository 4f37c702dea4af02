package noderesources

import (
	corev1 "k8s.io/api/core/v1"

	"skiff/internal/scheduler/framework"
)

// Resource is a resource that counts in a score, and how much.
type Resource struct {
	Name   corev1.ResourceName
	Weight int64
}

// cpuAndMemory is what counts if nothing else is asked for.
var cpuAndMemory = []Resource{{corev1.ResourceCPU, 1}, {corev1.ResourceMemory, 1}}

// allocation is what is allocated of a node's resources once the pod is there.
type allocation struct {
	resources []Resource
	// want is what the pod requests, by resource.
	want []int64
	// exact leaves containers that request nothing out of account.
	exact bool
	// census counts, by resource, devices that stand for it; nil if none do.
	census []func(node *corev1.Node) (have, taken int64)
}

func newAllocation(resources []Resource, devices Devices, pod *framework.PodInfo, exact bool) allocation {
	if len(resources) == 0 {
		resources = cpuAndMemory
	}
	requests := &pod.NonZero
	if exact {
		requests = &pod.Requests
	}
	a := allocation{
		resources: resources, want: make([]int64, len(resources)), exact: exact,
		census: make([]func(*corev1.Node) (int64, int64), len(resources)),
	}
	for i, r := range resources {
		a.want[i] = requests.Get(r.Name)
		if a.want[i] > 0 && scalar(r.Name) && devices != nil {
			a.census[i] = devices.Census(r.Name)
		}
	}
	return a
}

// of calls yield with how much of a resource is used and how much there is, for
// each resource that the node has. Of other resources than CPU, memory and
// storage those do not count that the pod does not request.
func (a *allocation) of(n *framework.NodeInfo, yield func(used, have, weight int64)) {
	for i, r := range a.resources {
		if a.want[i] == 0 && scalar(r.Name) {
			continue
		}
		have := n.Allocatable.Get(r.Name)
		if have == 0 && a.census[i] != nil {
			if have, taken := a.census[i](n.Node); have > 0 {
				yield(taken+a.want[i], have, r.Weight)
			}
			continue
		}
		if have == 0 {
			continue
		}
		used := &n.Requested
		if !a.exact && (r.Name == corev1.ResourceCPU || r.Name == corev1.ResourceMemory) {
			used = &n.NonZero
		}
		yield(used.Get(r.Name)+a.want[i], have, r.Weight)
	}
}

func scalar(name corev1.ResourceName) bool {
	return name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage
}
