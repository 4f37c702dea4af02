package cgroups

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// pod makes a pod of containers "cpuRequest/cpuLimit memoryRequest/memoryLimit",
// "-" for none.
func pod(containers ...string) *v1.Pod {
	p := &v1.Pod{}
	p.UID = types.UID("u")
	for i, text := range containers {
		c := v1.Container{Name: fmt.Sprintf("c%d", i)}
		for name, part := range map[v1.ResourceName]string{v1.ResourceCPU: strings.Fields(text)[0], v1.ResourceMemory: strings.Fields(text)[1]} {
			request, limit, _ := strings.Cut(part, "/")
			set := func(list *v1.ResourceList, q string) {
				if q == "-" {
					return
				}
				if *list == nil {
					*list = v1.ResourceList{}
				}
				(*list)[name] = resource.MustParse(q)
			}
			set(&c.Resources.Requests, request)
			set(&c.Resources.Limits, limit)
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}

func text(list []setting) string {
	var out []string
	for _, s := range list {
		out = append(out, s.file+"="+s.value)
	}
	return strings.Join(out, " ")
}

func TestPodValues(t *testing.T) {
	tests := []struct {
		name   string
		pod    *v1.Pod
		path   string
		v1, v2 string
	}{
		{"best effort", pod("-/- -/-"), "/root/kubepods/besteffort/podu",
			"cpu.shares=2 cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1 memory.limit_in_bytes=-1",
			"cpu.weight=1 cpu.max=max 100000 memory.max=max"},
		{"burstable", pod("500m/- 64Mi/-"), "/root/kubepods/burstable/podu",
			"cpu.shares=512 cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1 memory.limit_in_bytes=-1",
			"cpu.weight=20 cpu.max=max 100000 memory.max=max"},
		{"burstable, all limited", pod("500m/1 64Mi/128Mi", "250m/500m 64Mi/128Mi"), "/root/kubepods/burstable/podu",
			"cpu.shares=768 cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000 memory.limit_in_bytes=268435456",
			"cpu.weight=30 cpu.max=150000 100000 memory.max=268435456"},
		{"burstable, one without limits", pod("500m/1 64Mi/128Mi", "-/- -/-"), "/root/kubepods/burstable/podu",
			"cpu.shares=512 cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1 memory.limit_in_bytes=-1",
			"cpu.weight=20 cpu.max=max 100000 memory.max=max"},
		{"guaranteed", pod("2/2 1Gi/1Gi"), "/root/kubepods/podu",
			"cpu.shares=2048 cpu.cfs_period_us=100000 cpu.cfs_quota_us=200000 memory.limit_in_bytes=1073741824",
			"cpu.weight=79 cpu.max=200000 100000 memory.max=1073741824"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := podValues(test.pod)
			if got := text(v.settingsV1()); got != test.v1 {
				t.Errorf("cgroup v1: %s, want %s", got, test.v1)
			}
			if got := text(v.settingsV2()); got != test.v2 {
				t.Errorf("cgroup v2: %s, want %s", got, test.v2)
			}
			if got := PodPath("/root", test.pod); got != test.path {
				t.Errorf("path %s, want %s", got, test.path)
			}
		})
	}
}

func TestOOMScore(t *testing.T) {
	const capacity = 4 << 30
	critical := pod("-/- -/-")
	priority := int32(systemCriticalLevel)
	critical.Spec.Priority = &priority
	for name, test := range map[string]struct {
		pod  *v1.Pod
		want int64
	}{
		"best effort":         {pod("-/- -/-"), 1000},
		"guaranteed":          {pod("1/1 1Gi/1Gi"), -997},
		"critical":            {critical, -997},
		"a quarter of memory": {pod("1/- 1Gi/-"), 750},
		"tiny":                {pod("1/- 1Mi/-"), 999},
		"huge":                {pod("1/- 8Gi/-"), 3},
	} {
		if got := OOMScoreAdj(test.pod, &test.pod.Spec.Containers[0], capacity); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func TestContainerResources(t *testing.T) {
	p := pod("-/250m 64Mi/64Mi")
	p.Spec.Containers[0].Resources.Limits["hugepages-2Mi"] = resource.MustParse("4Mi")
	r := ContainerResources(p, &p.Spec.Containers[0], 4<<30, true)
	if r.CpuShares != 256 || r.CpuQuota != 25000 || r.MemoryLimitInBytes != 64<<20 || r.Unified["memory.oom.group"] != "1" ||
		len(r.HugepageLimits) != 1 || r.HugepageLimits[0].PageSize != "2MB" || r.HugepageLimits[0].Limit != 4<<20 {
		t.Errorf("got %v", r)
	}
	if q := Quota(1); q != minQuota {
		t.Errorf("the least quota is %d", q)
	}
}

// TestPodLimits are limits of the pod that bind containers without their own.
func TestPodLimits(t *testing.T) {
	for _, test := range []struct {
		container, pod        string
		shares, quota, memory int64
	}{
		{"-/- -/-", "1/500m 64Mi/64Mi", 512, 50000, 64 << 20},
		{"-/250m -/-", "-/500m 64Mi/64Mi", 256, 25000, 64 << 20},
		{"100m/- 16Mi/32Mi", "-/500m 64Mi/64Mi", 102, 50000, 32 << 20},
		{"100m/- 16Mi/-", "-/- -/-", 102, 0, 0},
	} {
		p := pod(test.container)
		p.Spec.Resources = &pod(test.pod).Spec.Containers[0].Resources
		r := ContainerResources(p, &p.Spec.Containers[0], 4<<30, false)
		if r.CpuShares != test.shares || r.CpuQuota != test.quota || r.MemoryLimitInBytes != test.memory {
			t.Errorf("%s in a pod with %s: %v", test.container, test.pod, r)
		}
	}
}

// TestManager works on the machine's own cgroups, below one of its own.
func TestManager(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	root := fmt.Sprintf("/skiff-test-cgroups-%d", os.Getpid())
	m, err := New(DefaultMount, root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, dir := range m.directories(root) {
			if err := removeTree(dir); err != nil {
				t.Error(err)
			}
		}
	})
	if err := m.Prepare(v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi")}); err != nil {
		t.Skipf("this machine's cgroups cannot be changed: %v", err)
	}
	p := pod("500m/1 64Mi/128Mi")
	cgroup, err := m.EnsurePod(p)
	if err != nil {
		t.Fatal(err)
	}
	file, want := "memory.limit_in_bytes", "134217728"
	if m.Unified() {
		file = "memory.max"
	}
	have, err := os.ReadFile(filepath.Join(m.Directory("memory", cgroup), file))
	if err != nil || strings.TrimSpace(string(have)) != want {
		t.Errorf("%s is %s, %v; want %s", file, have, err, want)
	}
	if uids := m.Pods(); len(uids) != 1 || uids[0] != "u" {
		t.Errorf("pods %v", uids)
	}
	left := exec.Command("sleep", "1000")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	procs := filepath.Join(m.Directory("memory", cgroup), "left", "cgroup.procs")
	if err := os.Mkdir(filepath.Dir(procs), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(procs, []byte(strconv.Itoa(left.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if err := m.RemovePod("u"); err == nil {
		t.Error("nobody hears of the process that was left")
	}
	var killed *exec.ExitError
	if err := left.Wait(); !errors.As(err, &killed) || killed.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("what was left ended with %v", err)
	}
	if err := m.RemovePod("u"); err != nil {
		t.Fatal(err)
	}
	if uids := m.Pods(); len(uids) != 0 {
		t.Errorf("left are %v", uids)
	}
}
