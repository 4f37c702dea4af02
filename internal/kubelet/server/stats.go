package server

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/kubelet/pkg/types"

	"skiff/internal/kubelet/node"
	"skiff/internal/kubelet/runtime"
)

// statistics gathers what the node and its pods use.
type statistics struct {
	runtime  *runtime.Client
	pods     Pods
	nodeName string
	rootDir  string
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	out, err := s.stats.summary(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.json(w, out)
}

func (s *statistics) summary(ctx context.Context) (*stats.Summary, error) {
	own, err := s.node()
	if err != nil {
		return nil, fmt.Errorf("measuring the node: %w", err)
	}
	containers, err := s.runtime.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("reading containers' statistics: %w", err)
	}
	sandboxes, err := s.runtime.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("reading sandboxes' statistics: %w", err)
	}
	out := &stats.Summary{Node: *own}
	byUID := map[string]*stats.PodStats{}
	for _, pod := range s.pods.Pods() {
		if pod.Status.Phase != v1.PodRunning && pod.Status.Phase != v1.PodPending {
			continue
		}
		p := &stats.PodStats{PodRef: stats.PodReference{Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID)}}
		if pod.Status.StartTime != nil {
			p.StartTime = *pod.Status.StartTime
		}
		byUID[string(pod.UID)] = p
	}
	started := s.startTimes()
	for _, c := range containers.Stats {
		if p := byUID[c.GetAttributes().GetLabels()[types.KubernetesPodUIDLabel]]; p != nil {
			p.Containers = append(p.Containers, containerStats(c, started))
		}
	}
	for _, sandbox := range sandboxes.Stats {
		p := byUID[sandbox.GetAttributes().GetMetadata().GetUid()]
		if p == nil {
			continue
		}
		p.CPU = cpuStats(sandbox.GetLinux().GetCpu())
		p.Memory = memoryStats(sandbox.GetLinux().GetMemory())
		p.Network = networkStats(sandbox.GetLinux().GetNetwork())
		if n := sandbox.GetLinux().GetProcess().GetProcessCount(); n != nil {
			p.ProcessStats = &stats.ProcessStats{ProcessCount: &n.Value}
		}
	}
	for _, p := range byUID {
		if len(p.Containers) > 0 {
			slices.SortFunc(p.Containers, func(a, b stats.ContainerStats) int { return strings.Compare(a.Name, b.Name) })
			out.Pods = append(out.Pods, *p)
		}
	}
	slices.SortFunc(out.Pods, func(a, b stats.PodStats) int { return strings.Compare(a.PodRef.UID, b.PodRef.UID) })
	return out, nil
}

// startTimes returns when each running container started, by its ID.
func (s *statistics) startTimes() map[string]metav1.Time {
	out := map[string]metav1.Time{}
	for _, pod := range s.pods.Pods() {
		for _, c := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
			if c.State.Running != nil {
				_, id, _ := strings.Cut(c.ContainerID, "://")
				out[id] = c.State.Running.StartedAt
			}
		}
	}
	return out
}

func containerStats(c *cri.ContainerStats, started map[string]metav1.Time) stats.ContainerStats {
	out := stats.ContainerStats{
		Name:      c.GetAttributes().GetMetadata().GetName(),
		StartTime: started[c.GetAttributes().GetId()],
		CPU:       cpuStats(c.Cpu),
		Memory:    memoryStats(c.Memory),
	}
	if layer := c.WritableLayer; layer != nil {
		out.Rootfs = &stats.FsStats{Time: metav1.NewTime(time.Unix(0, layer.Timestamp)), UsedBytes: value(layer.UsedBytes), InodesUsed: value(layer.InodesUsed)}
	}
	return out
}

func value(v *cri.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func cpuStats(c *cri.CpuUsage) *stats.CPUStats {
	if c == nil {
		return nil
	}
	return &stats.CPUStats{
		Time: metav1.NewTime(time.Unix(0, c.Timestamp)), UsageNanoCores: value(c.UsageNanoCores),
		UsageCoreNanoSeconds: value(c.UsageCoreNanoSeconds),
	}
}

func memoryStats(m *cri.MemoryUsage) *stats.MemoryStats {
	if m == nil {
		return nil
	}
	return &stats.MemoryStats{
		Time: metav1.NewTime(time.Unix(0, m.Timestamp)), AvailableBytes: value(m.AvailableBytes), UsageBytes: value(m.UsageBytes),
		WorkingSetBytes: value(m.WorkingSetBytes), RSSBytes: value(m.RssBytes), PageFaults: value(m.PageFaults),
		MajorPageFaults: value(m.MajorPageFaults),
	}
}

func networkStats(n *cri.NetworkUsage) *stats.NetworkStats {
	if n == nil {
		return nil
	}
	out := &stats.NetworkStats{Time: metav1.NewTime(time.Unix(0, n.Timestamp))}
	convert := func(i *cri.NetworkInterfaceUsage) stats.InterfaceStats {
		return stats.InterfaceStats{
			Name: i.Name, RxBytes: value(i.RxBytes), RxErrors: value(i.RxErrors), TxBytes: value(i.TxBytes), TxErrors: value(i.TxErrors),
		}
	}
	if n.DefaultInterface != nil {
		out.InterfaceStats = convert(n.DefaultInterface)
	}
	for _, i := range n.Interfaces {
		out.Interfaces = append(out.Interfaces, convert(i))
	}
	return out
}

// node measures the whole machine.
func (s *statistics) node() (*stats.NodeStats, error) {
	now := metav1.Now()
	cpu, boot, err := procStat()
	if err != nil {
		return nil, err
	}
	memory, err := node.Meminfo()
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.rootDir, &fs); err != nil {
		return nil, err
	}
	size := uint64(fs.Bsize)
	capacity, available, used := fs.Blocks*size, fs.Bavail*size, (fs.Blocks-fs.Bfree)*size
	usage := memory["MemTotal"] - memory["MemFree"]
	workingSet := usage - min(memory["Inactive(file)"], usage)
	free := memory["MemTotal"] - workingSet
	return &stats.NodeStats{
		NodeName:  s.nodeName,
		StartTime: metav1.NewTime(boot),
		CPU:       &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &cpu},
		Memory:    &stats.MemoryStats{Time: now, UsageBytes: &usage, WorkingSetBytes: &workingSet, AvailableBytes: &free},
		Fs: &stats.FsStats{
			Time: now, CapacityBytes: &capacity, AvailableBytes: &available, UsedBytes: &used,
			Inodes: &fs.Files, InodesFree: &fs.Ffree,
		},
	}, nil
}

// userHz is the kernel's unit of time in /proc/stat, fixed by its ABI.
const userHz = 100

// procStat returns the CPU time used by all since boot, in nanoseconds, and
// when the machine started.
func procStat() (used uint64, boot time.Time, err error) {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return 0, time.Time{}, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) > 8 && fields[0] == "cpu":
			// user nice system, then irq softirq steal; idle and iowait between.
			for _, i := range []int{1, 2, 3, 6, 7, 8} {
				ticks, err := strconv.ParseUint(fields[i], 10, 64)
				if err != nil {
					return 0, time.Time{}, err
				}
				used += ticks * uint64(time.Second/userHz)
			}
		case len(fields) == 2 && fields[0] == "btime":
			seconds, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return 0, time.Time{}, err
			}
			boot = time.Unix(seconds, 0)
		}
	}
	return used, boot, lines.Err()
}
