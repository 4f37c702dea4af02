// Package cgroups turns requests and limits into cgroup values and keeps the
// cgroups above the containers: kubepods, its quality-of-service classes and
// one for each pod, on cgroup v1 and v2. The containers' own cgroups are the
// runtime's.
package cgroups

import (
	v1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Bounds of the kernel and of upstream's conversions.
const (
	minShares     = 2
	maxShares     = 262144
	sharesPerCPU  = 1024
	quotaPeriod   = 100_000 // microseconds
	minQuota      = 1_000   // microseconds
	minWeight     = 1
	maxWeight     = 10_000
	pressureFloor = 1000
)

// OOM score adjustments (see "Node-pressure eviction: node out of memory
// behavior").
const (
	sandboxOOMScore     = -998
	guaranteedOOMScore  = -997
	bestEffortOOMScore  = 1000
	systemCriticalLevel = 2_000_000_000
)

// Shares converts thousandths of a CPU to cpu.shares.
func Shares(milliCPU int64) int64 {
	return min(max(milliCPU*sharesPerCPU/1000, minShares), maxShares)
}

// Weight converts cpu.shares to cgroup v2's cpu.weight.
func Weight(shares int64) int64 {
	return minWeight + (shares-minShares)*(maxWeight-minWeight)/(maxShares-minShares)
}

// Quota converts thousandths of a CPU to a CFS quota in microseconds for each
// period; zero means none.
func Quota(milliCPU int64) int64 {
	if milliCPU == 0 {
		return 0
	}
	return max(milliCPU*quotaPeriod/1000, minQuota)
}

// QOS returns the pod's quality-of-service class (see "Pod Quality of Service
// Classes"); the one in its status wins, since it never changes.
func QOS(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	any, guaranteed := false, true
	check := func(r v1.ResourceRequirements) {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			limit, request := r.Limits[name], r.Requests[name]
			if !limit.IsZero() || !request.IsZero() {
				any = true
			}
			if limit.IsZero() || (!request.IsZero() && request.Cmp(limit) != 0) {
				guaranteed = false
			}
		}
	}
	if resource.IsPodLevelResourcesSet(pod) {
		check(*pod.Spec.Resources)
	} else {
		for i := range pod.Spec.Containers {
			check(pod.Spec.Containers[i].Resources)
		}
		for i := range pod.Spec.InitContainers {
			check(pod.Spec.InitContainers[i].Resources)
		}
	}
	switch {
	case !any:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	default:
		return v1.PodQOSBurstable
	}
}

// OOMScoreAdj returns the adjustment for a container of pod on a node with
// capacity bytes of memory.
func OOMScoreAdj(pod *v1.Pod, c *v1.Container, capacity int64) int64 {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCriticalLevel {
		return guaranteedOOMScore
	}
	switch QOS(pod) {
	case v1.PodQOSGuaranteed:
		return guaranteedOOMScore
	case v1.PodQOSBestEffort:
		return bestEffortOOMScore
	}
	if capacity <= 0 {
		return bestEffortOOMScore - 1
	}
	score := pressureFloor - pressureFloor*c.Resources.Requests.Memory().Value()/capacity
	return min(max(score, pressureFloor+guaranteedOOMScore), bestEffortOOMScore-1)
}

// limitOf returns the container's limit or, where it has none, the pod's, which
// it cannot pass either: a program that reads its own cgroup is to see it
// (KEP-2837).
func limitOf(pod *v1.Pod, c *v1.Container, name v1.ResourceName) *apiresource.Quantity {
	limit := c.Resources.Limits[name]
	if limit.IsZero() && resource.IsPodLevelResourcesSet(pod) {
		limit = pod.Spec.Resources.Limits[name]
	}
	return &limit
}

// ContainerResources returns the limits the runtime sets on a container.
func ContainerResources(pod *v1.Pod, c *v1.Container, capacity int64, unified bool) *cri.LinuxContainerResources {
	limit := limitOf(pod, c, v1.ResourceCPU)
	request, asked := c.Resources.Requests[v1.ResourceCPU]
	if !asked {
		request = *limit
	}
	r := &cri.LinuxContainerResources{
		CpuShares:          Shares(request.MilliValue()),
		CpuPeriod:          quotaPeriod,
		CpuQuota:           Quota(limit.MilliValue()),
		MemoryLimitInBytes: limitOf(pod, c, v1.ResourceMemory).Value(),
		OomScoreAdj:        OOMScoreAdj(pod, c, capacity),
	}
	for name, q := range c.Resources.Limits {
		if size, ok := hugePageSize(name); ok {
			r.HugepageLimits = append(r.HugepageLimits, &cri.HugepageLimit{PageSize: size, Limit: uint64(q.Value())})
		}
	}
	if unified {
		// All of a container's processes end together when one hits the limit.
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}

// Differ reports whether a container has other cpu or memory limits than are
// wanted. What the runtime does not report does not differ.
func Differ(want, have *cri.LinuxContainerResources) (cpu, memory bool) {
	if have == nil || have.CpuShares == 0 {
		return false, false
	}
	limit := func(v int64) int64 { return max(v, 0) }
	cpu = want.CpuShares != have.CpuShares || limit(want.CpuQuota) != limit(have.CpuQuota)
	return cpu, limit(want.MemoryLimitInBytes) != limit(have.MemoryLimitInBytes)
}

// MilliCPU is the opposite of Shares.
func MilliCPU(shares int64) int64 { return (shares*1000 + sharesPerCPU/2) / sharesPerCPU }

// LimitedMilliCPU is the opposite of Quota.
func LimitedMilliCPU(quota, period int64) int64 {
	if period <= 0 {
		period = quotaPeriod
	}
	return quota * 1000 / period
}

// SandboxResources returns what the runtime is told of a pod as a whole.
func SandboxResources(pod *v1.Pod) *cri.LinuxContainerResources {
	v := podValues(pod)
	return &cri.LinuxContainerResources{
		CpuShares:          v.shares,
		CpuPeriod:          quotaPeriod,
		CpuQuota:           v.quota,
		MemoryLimitInBytes: v.memory,
		OomScoreAdj:        sandboxOOMScore,
	}
}
