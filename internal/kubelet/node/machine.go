// Package node registers the node and keeps its object and lease current.
package node

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what does not change while the kubelet runs.
type Machine struct {
	// Memory is the machine's, in bytes.
	Memory   int64
	Capacity v1.ResourceList
	Info     v1.NodeSystemInfo
}

// InspectMachine reads the machine's facts; root is the directory whose file
// system pods store on.
func InspectMachine(root string) (*Machine, error) {
	memory, err := meminfo("MemTotal")
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return nil, fmt.Errorf("reading file system of %s: %w", root, err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, err
	}
	m := &Machine{
		Memory: memory,
		Capacity: v1.ResourceList{
			v1.ResourceCPU:              *resource.NewQuantity(int64(goruntime.NumCPU()), resource.DecimalSI),
			v1.ResourceMemory:           *resource.NewQuantity(memory, resource.BinarySI),
			v1.ResourceEphemeralStorage: *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI),
		},
		Info: v1.NodeSystemInfo{
			MachineID:       firstLine("/etc/machine-id"),
			SystemUUID:      firstLine("/sys/class/dmi/id/product_uuid"),
			BootID:          firstLine("/proc/sys/kernel/random/boot_id"),
			KernelVersion:   unix.ByteSliceToString(uts.Release[:]),
			OSImage:         osImage(),
			OperatingSystem: goruntime.GOOS,
			Architecture:    goruntime.GOARCH,
		},
	}
	if m.Info.SystemUUID == "" {
		m.Info.SystemUUID = m.Info.MachineID
	}
	for name, q := range hugePages() {
		m.Capacity[name] = q
	}
	return m, nil
}

// meminfo returns a field of /proc/meminfo, in bytes.
func meminfo(field string) (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), field+":")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		return kib << 10, err
	}
	return 0, fmt.Errorf("no %s in /proc/meminfo", field)
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

func osImage() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}

// hugePages returns the machine's preallocated huge pages.
func hugePages() v1.ResourceList {
	out := v1.ResourceList{}
	dirs, err := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	if err != nil {
		return out
	}
	for _, dir := range dirs {
		text := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "hugepages-"), "kB")
		kib, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			continue
		}
		count, err := strconv.ParseInt(firstLine(filepath.Join(dir, "nr_hugepages")), 10, 64)
		if err != nil {
			continue
		}
		size := resource.NewQuantity(kib<<10, resource.BinarySI)
		out[v1.ResourceName(v1.ResourceHugePagesPrefix+size.String())] = *resource.NewQuantity(count*kib<<10, resource.BinarySI)
	}
	return out
}

// Pressure is how scarce the machine's resources are.
type Pressure struct {
	Memory, Disk, PID bool
}

// Thresholds of upstream's default hard evictions.
const (
	minMemory      = 100 << 20 // bytes
	minDiskPercent = 10
	minPIDPercent  = 5
)

// MeasurePressure looks at the machine now.
func MeasurePressure(root string) Pressure {
	var p Pressure
	if available, err := meminfo("MemAvailable"); err == nil {
		p.Memory = available < minMemory
	}
	var fs unix.Statfs_t
	if unix.Statfs(root, &fs) == nil && fs.Blocks > 0 {
		p.Disk = fs.Bavail*100/fs.Blocks < minDiskPercent
	}
	var info unix.Sysinfo_t
	most, err := strconv.ParseUint(firstLine("/proc/sys/kernel/pid_max"), 10, 64)
	if unix.Sysinfo(&info) == nil && err == nil && most > 0 {
		p.PID = (most-min(uint64(info.Procs), most))*100/most < minPIDPercent
	}
	return p
}
