package cgroups

import (
	"path"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// values are the limits of one cgroup; zero means no limit.
type values struct {
	shares int64 // cpu.shares
	quota  int64 // microseconds for each period of quotaPeriod
	memory int64 // bytes
	pids   int64
}

// podValues returns the values of pod's cgroup.
func podValues(pod *v1.Pod) values {
	qos := QOS(pod)
	if qos == v1.PodQOSBestEffort {
		return values{shares: minShares}
	}
	requests := resource.PodRequests(pod, resource.PodResourcesOptions{})
	limits := PodLimits(pod)
	milli := requests.Cpu().MilliValue()
	if milli == 0 {
		milli = limits.Cpu().MilliValue()
	}
	return values{shares: Shares(milli), quota: Quota(limits.Cpu().MilliValue()), memory: limits.Memory().Value()}
}

// PodLimits returns the limits of cpu and memory that bind pod as a whole: its
// own, or the containers' together where every one has a limit; otherwise one
// without would be bound by the others'.
func PodLimits(pod *v1.Pod) v1.ResourceList {
	cpuLimited, memoryLimited := true, true
	limits := resource.PodLimits(pod, resource.PodResourcesOptions{
		ContainerFn: func(r v1.ResourceList, _ resource.ContainerType) {
			if r.Cpu().IsZero() {
				cpuLimited = false
			}
			if r.Memory().IsZero() {
				memoryLimited = false
			}
		},
	})
	if l := pod.Spec.Resources; l != nil {
		cpuLimited = cpuLimited || !l.Limits.Cpu().IsZero()
		memoryLimited = memoryLimited || !l.Limits.Memory().IsZero()
	}
	bound := v1.ResourceList{}
	for name, limited := range map[v1.ResourceName]bool{v1.ResourceCPU: cpuLimited, v1.ResourceMemory: memoryLimited} {
		if q, ok := limits[name]; ok && limited {
			bound[name] = q
		}
	}
	return bound
}

// wide returns values that are nowhere below v or other.
func (v values) wide(other values) values {
	limit := func(a, b int64) int64 {
		if a == 0 || b == 0 {
			return 0
		}
		return max(a, b)
	}
	return values{
		shares: max(v.shares, other.shares), quota: limit(v.quota, other.quota),
		memory: limit(v.memory, other.memory), pids: limit(v.pids, other.pids),
	}
}

// setting is a file in a cgroup's directory and what is written to it.
// Controller is empty on cgroup v2.
type setting struct {
	controller, file, value string
}

// settingsV1 returns the files of cgroup v1.
func (v values) settingsV1() []setting {
	var s []setting
	if v.shares > 0 {
		s = append(s, setting{"cpu", "cpu.shares", strconv.FormatInt(v.shares, 10)})
	}
	quota := int64(-1)
	if v.quota > 0 {
		quota = v.quota
	}
	s = append(s,
		setting{"cpu", "cpu.cfs_period_us", strconv.Itoa(quotaPeriod)},
		setting{"cpu", "cpu.cfs_quota_us", strconv.FormatInt(quota, 10)})
	memory := int64(-1)
	if v.memory > 0 {
		memory = v.memory
	}
	s = append(s, setting{"memory", "memory.limit_in_bytes", strconv.FormatInt(memory, 10)})
	if v.pids > 0 {
		s = append(s, setting{"pids", "pids.max", strconv.FormatInt(v.pids, 10)})
	}
	return s
}

// settingsV2 returns the files of cgroup v2.
func (v values) settingsV2() []setting {
	var s []setting
	if v.shares > 0 {
		s = append(s, setting{"", "cpu.weight", strconv.FormatInt(Weight(v.shares), 10)})
	}
	s = append(s,
		setting{"", "cpu.max", orMax(v.quota) + " " + strconv.Itoa(quotaPeriod)},
		setting{"", "memory.max", orMax(v.memory)})
	if v.pids > 0 {
		s = append(s, setting{"", "pids.max", strconv.FormatInt(v.pids, 10)})
	}
	return s
}

func orMax(v int64) string {
	if v <= 0 {
		return "max"
	}
	return strconv.FormatInt(v, 10)
}

// Names of the cgroups under the root.
const (
	kubepods   = "kubepods"
	burstable  = "burstable"
	bestEffort = "besteffort"
	podPrefix  = "pod"
)

// PodPath returns the path of pod's cgroup, from the file system's root.
func PodPath(root string, pod *v1.Pod) string {
	return path.Join(classPath(root, QOS(pod)), podPrefix+string(pod.UID))
}

func classPath(root string, qos v1.PodQOSClass) string {
	switch qos {
	case v1.PodQOSBurstable:
		return path.Join("/", root, kubepods, burstable)
	case v1.PodQOSBestEffort:
		return path.Join("/", root, kubepods, bestEffort)
	default:
		return path.Join("/", root, kubepods)
	}
}

// hugePageSize returns the runtime's name of the page size in a
// hugepages-<size> resource: 2Mi is 2MB to the kernel.
func hugePageSize(name v1.ResourceName) (string, bool) {
	size, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
	if !ok {
		return "", false
	}
	return strings.TrimSuffix(size, "i") + "B", true
}
