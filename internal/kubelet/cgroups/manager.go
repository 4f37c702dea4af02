package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// DefaultMount is where the kernel's cgroup file systems are.
const DefaultMount = "/sys/fs/cgroup"

// hierarchies are the directories below the mount on cgroup v1; which of them
// exist depends on the machine. "unified" is the empty v2 hierarchy beside the
// v1 ones, where the runtime makes its cgroups, too.
func hierarchies() []string {
	return []string{
		"cpu", "cpuacct", "cpuset", "memory", "pids", "hugetlb", "blkio", "devices", "freezer", "net_cls", "net_prio",
		"perf_event", "systemd", "unified",
	}
}

// controllersV2 are switched on for the children of every cgroup down to the
// pods'.
const controllersV2 = "+cpuset +cpu +io +memory +hugetlb +pids"

// Manager keeps the cgroups above the containers. Several nodes share one
// file system when their roots differ.
type Manager struct {
	mount   string
	root    string
	unified bool
	// mounted are the directories of the v1 hierarchies, by controller.
	mounted map[string]string
	mu      sync.Mutex
	pods    map[string]*v1.Pod
}

// New looks at the cgroup file systems under mount (usually DefaultMount).
// root is the cgroup below which kubepods is made.
func New(mount, root string) (*Manager, error) {
	m := &Manager{mount: mount, root: root, mounted: map[string]string{}, pods: map[string]*v1.Pod{}}
	var st unix.Statfs_t
	if err := unix.Statfs(mount, &st); err != nil {
		return nil, fmt.Errorf("looking for cgroups at %s: %w", mount, err)
	}
	if m.unified = st.Type == unix.CGROUP2_SUPER_MAGIC; m.unified {
		return m, nil
	}
	for _, name := range hierarchies() {
		dir := filepath.Join(mount, name)
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			m.mounted[name] = dir
		}
	}
	for _, needed := range []string{"cpu", "memory"} {
		if m.mounted[needed] == "" {
			return nil, fmt.Errorf("cgroup controller %s is not mounted at %s: mount it, or boot with cgroup v2", needed, filepath.Join(mount, needed))
		}
	}
	return m, nil
}

// Unified reports whether the machine uses cgroup v2 alone.
func (m *Manager) Unified() bool { return m.unified }

// Directory returns where files of a controller are for a cgroup path.
func (m *Manager) Directory(controller, cgroup string) string {
	if m.unified {
		return filepath.Join(m.mount, cgroup)
	}
	return filepath.Join(m.mounted[controller], cgroup)
}

// Prepare makes kubepods and the classes below it, bound by what the node has
// for pods.
func (m *Manager) Prepare(allocatable v1.ResourceList) error {
	top := values{
		shares: Shares(allocatable.Cpu().MilliValue()),
		memory: allocatable.Memory().Value(),
	}
	if err := m.ensure(classPath(m.root, v1.PodQOSGuaranteed), top); err != nil {
		return err
	}
	for _, class := range []v1.PodQOSClass{v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		if err := m.ensure(classPath(m.root, class), values{shares: minShares}); err != nil {
			return err
		}
	}
	return nil
}

// EnsurePod makes or updates pod's cgroup and returns its path for the
// runtime.
func (m *Manager) EnsurePod(pod *v1.Pod) (string, error) {
	cgroup := PodPath(m.root, pod)
	if err := m.ensure(cgroup, podValues(pod)); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pods[string(pod.UID)] = pod
	return cgroup, m.weighBurstableLocked()
}

// Differs reports whether the cgroup that was made for pod has other values than
// pod says now.
func (m *Manager) Differs(pod *v1.Pod) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.pods[string(pod.UID)]
	return old != nil && old != pod && podValues(old) != podValues(pod)
}

// ResizePod brings pod's cgroup to its new values around update, which changes
// the containers': the pod's limits are never below theirs.
func (m *Manager) ResizePod(pod *v1.Pod, update func() error) error {
	m.mu.Lock()
	old := m.pods[string(pod.UID)]
	m.mu.Unlock()
	before := values{}
	if old != nil {
		before = podValues(old)
	}
	if err := m.write(PodPath(m.root, pod), podValues(pod).wide(before)); err != nil {
		return err
	}
	if err := update(); err != nil {
		return err
	}
	_, err := m.EnsurePod(pod)
	return err
}

// weighBurstableLocked gives the burstable class the CPU its pods ask for
// together. m.mu must be held.
func (m *Manager) weighBurstableLocked() error {
	var milli int64
	for _, pod := range m.pods {
		if QOS(pod) == v1.PodQOSBurstable {
			requests := resource.PodRequests(pod, resource.PodResourcesOptions{})
			milli += requests.Cpu().MilliValue()
		}
	}
	return m.write(classPath(m.root, v1.PodQOSBurstable), values{shares: Shares(milli)})
}

// RemovePod removes the cgroups of the pod with this UID, whatever its class.
// Its containers must be gone. Processes that the runtime has left are killed;
// that they were there is an error, for they may take a moment to go.
func (m *Manager) RemovePod(uid string) error {
	var errs []error
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		cgroup := path.Join(classPath(m.root, class), podPrefix+uid)
		for _, dir := range m.directories(cgroup) {
			if err := removeTree(dir); err != nil {
				errs = append(errs, err, killTree(dir))
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pods[uid] != nil {
		delete(m.pods, uid)
		errs = append(errs, m.weighBurstableLocked())
	}
	return errors.Join(errs...)
}

// Pods returns the UIDs of all pods that have a cgroup.
func (m *Manager) Pods() []string {
	seen := map[string]bool{}
	var uids []string
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		for _, dir := range m.directories(classPath(m.root, class)) {
			entries, err := os.ReadDir(dir)
			if err != nil {
				continue
			}
			for _, e := range entries {
				if uid, ok := strings.CutPrefix(e.Name(), podPrefix); ok && e.IsDir() && !seen[uid] {
					seen[uid] = true
					uids = append(uids, uid)
				}
			}
		}
	}
	return uids
}

func (m *Manager) directories(cgroup string) []string {
	if m.unified {
		return []string{filepath.Join(m.mount, cgroup)}
	}
	var dirs []string
	for _, name := range hierarchies() {
		if dir, ok := m.mounted[name]; ok {
			dirs = append(dirs, filepath.Join(dir, cgroup))
		}
	}
	return dirs
}

func (m *Manager) ensure(cgroup string, v values) error {
	if m.unified {
		if err := m.makeV2(cgroup); err != nil {
			return err
		}
		return m.write(cgroup, v)
	}
	for name, dir := range m.mounted {
		if err := os.MkdirAll(filepath.Join(dir, cgroup), 0o755); err != nil {
			return fmt.Errorf("making cgroup %s: %w", cgroup, err)
		}
		if name == "cpuset" {
			if err := inheritCPUSet(dir, cgroup); err != nil {
				return err
			}
		}
	}
	return m.write(cgroup, v)
}

// makeV2 makes the cgroup with controllers enabled all the way down to it.
func (m *Manager) makeV2(cgroup string) error {
	at := m.mount
	for _, part := range strings.Split(strings.Trim(cgroup, "/"), "/") {
		// Controllers the kernel lacks are left out one by one.
		for _, c := range strings.Fields(controllersV2) {
			err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte(c), 0o644)
			if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOENT) {
				return fmt.Errorf("enabling cgroup controller %s in %s: %w", c, at, err)
			}
		}
		at = filepath.Join(at, part)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making cgroup %s: %w", cgroup, err)
		}
	}
	return nil
}

// inheritCPUSet fills the CPUs and memory nodes of a v1 cpuset from its
// parents: a new one is empty, and no process can enter an empty one.
func inheritCPUSet(mount, cgroup string) error {
	at := mount
	for _, part := range strings.Split(strings.Trim(cgroup, "/"), "/") {
		child := filepath.Join(at, part)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := os.ReadFile(filepath.Join(child, file))
			if err != nil {
				return fmt.Errorf("reading cpuset: %w", err)
			}
			if strings.TrimSpace(string(have)) != "" {
				continue
			}
			parent, err := os.ReadFile(filepath.Join(at, file))
			if err != nil {
				return fmt.Errorf("reading cpuset: %w", err)
			}
			if err := os.WriteFile(filepath.Join(child, file), parent, 0o644); err != nil {
				return fmt.Errorf("setting cpuset: %w", err)
			}
		}
		at = child
	}
	return nil
}

func (m *Manager) write(cgroup string, v values) error {
	settings := v.settingsV1()
	if m.unified {
		settings = v.settingsV2()
	}
	for _, s := range settings {
		if !m.unified && m.mounted[s.controller] == "" {
			continue
		}
		file := filepath.Join(m.Directory(s.controller, cgroup), s.file)
		err := os.WriteFile(file, []byte(s.value), 0o644)
		// Kernels without CFS bandwidth or hugetlb lack the file.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("writing %s to %s: %w", s.value, file, err)
		}
	}
	return nil
}

// killTree kills the processes in a cgroup and those below it.
func killTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.Name() != "cgroup.procs" {
			return err
		}
		list, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for pid := range strings.FieldsSeq(string(list)) {
			// Those of other PID namespaces are shown as 0, which is not theirs.
			if n, err := strconv.Atoi(pid); err == nil && n > 1 {
				if err := unix.Kill(n, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("killing process %d of cgroup %s: %w", n, path, err)
				}
			}
		}
		return nil
	})
}

// removeTree removes a cgroup and those below it. Only directories can be
// removed in a cgroup file system, deepest first.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing cgroup %s: %w", dir, err)
	}
	return nil
}
