// Package volumes makes a pod's volumes available on the node, keeps their
// content current, and takes them away when the pod has ended. Directories are
// laid out as upstream's kubelet does, so that an upgrade from one to the
// other finds them.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/clock"

	"skiff/internal/kubelet/csi"
	"skiff/internal/kubelet/podspec"
)

// Objects reads what volumes refer to.
type Objects interface {
	podspec.Objects
	PersistentVolumeClaim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, error)
	PersistentVolume(ctx context.Context, name string) (*v1.PersistentVolume, error)
	// TrustAnchors returns the certificates that the projection selects, PEM.
	TrustAnchors(ctx context.Context, p *v1.ClusterTrustBundleProjection) ([]byte, error)
	// ClaimExpanded notes that the claim's file system has the size now.
	ClaimExpanded(ctx context.Context, claim *v1.PersistentVolumeClaim, size resource.Quantity) error
}

// Manager owns the volumes of a node's pods. Calls for one pod must not
// overlap; those for different pods may.
type Manager struct {
	// Root is the kubelet's directory.
	Root    string
	Objects Objects
	// CSI mounts volumes of CSI drivers; nil if there are none.
	CSI *csi.Drivers
	// Tokens fills the status of a token request for a service account.
	Tokens func(ctx context.Context, namespace, serviceAccount string, request *authv1.TokenRequest) error
	// Place says where a pod runs, for its downward API.
	Place func(*v1.Pod) podspec.Place
	Clock clock.Clock
	Log   *slog.Logger

	mu     sync.Mutex
	tokens map[tokenKey]cachedToken
	paths  map[string]map[string]string // host path of each volume, by pod UID and name
}

// Init must be called once before use.
func (m *Manager) Init() *Manager {
	m.tokens = map[tokenKey]cachedToken{}
	m.paths = map[string]map[string]string{}
	return m
}

// PodDir returns the directory of all that belongs to a pod on the node.
func (m *Manager) PodDir(uid string) string { return filepath.Join(m.Root, "pods", uid) }

// Mount makes all volumes of the pod ready and their content current; it may
// be called again at any time. It returns when content has to be renewed (zero
// for never) and the joined errors of the volumes that are not ready.
func (m *Manager) Mount(ctx context.Context, pod *v1.Pod) (time.Time, error) {
	if err := os.MkdirAll(m.PodDir(string(pod.UID)), 0o750); err != nil {
		return time.Time{}, fmt.Errorf("making pod directory: %w", err)
	}
	var refresh time.Time
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image != nil {
			// The runtime mounts it, with the container.
			continue
		}
		path, next, err := m.mount(ctx, pod, v)
		if err != nil {
			errs = append(errs, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err))
			continue
		}
		m.setPath(string(pod.UID), v.Name, path)
		if !next.IsZero() && (refresh.IsZero() || next.Before(refresh)) {
			refresh = next
		}
	}
	return refresh, errors.Join(errs...)
}

func (m *Manager) setPath(uid, volume, path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.paths[uid] == nil {
		m.paths[uid] = map[string]string{}
	}
	m.paths[uid][volume] = path
}

// Path returns where a mounted volume of the pod is.
func (m *Manager) Path(uid, volume string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if path := m.paths[uid][volume]; path != "" {
		return path, nil
	}
	return "", fmt.Errorf("volume %q of pod %s is not mounted", volume, uid)
}

func (m *Manager) mount(ctx context.Context, pod *v1.Pod, v *v1.Volume) (string, time.Time, error) {
	switch {
	case v.EmptyDir != nil:
		path, err := m.emptyDir(pod, v)
		return path, time.Time{}, err
	case v.HostPath != nil:
		return v.HostPath.Path, time.Time{}, prepareHostPath(v.HostPath)
	case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
		return m.claimed(ctx, pod, v)
	case v.CSI != nil:
		return m.inlineCSI(ctx, pod, v)
	case v.NFS != nil:
		path, err := m.nfs(ctx, pod, v.Name, v.NFS, false, nil)
		return path, time.Time{}, err
	}
	content, err := m.content(ctx, pod, v)
	if err != nil {
		return "", time.Time{}, err
	}
	if content == nil {
		return "", time.Time{}, fmt.Errorf("no volume plugin matched: this kubelet does not support the kind of volume %q", v.Name)
	}
	path, err := m.writeContent(pod, v, content)
	return path, content.refresh, err
}

// dir returns the directory of a volume, named as upstream names it.
func (m *Manager) dir(uid, plugin, name string) string {
	return filepath.Join(m.PodDir(uid), "volumes", "kubernetes.io~"+plugin, name)
}

func (m *Manager) writeContent(pod *v1.Pod, v *v1.Volume, c *collector) (string, error) {
	plugin, memory := "configmap", false
	switch {
	case v.Secret != nil:
		plugin, memory = "secret", true
	case v.Projected != nil:
		plugin, memory = "projected", true
	case v.DownwardAPI != nil:
		plugin = "downward-api"
	}
	dir := m.dir(string(pod.UID), plugin, v.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if memory {
		// Secrets never reach the disk.
		if err := mountTmpfs(dir, ""); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return "", err
	}
	group := fsGroup(pod)
	_, err := writeAtomic(dir, c.files, func(next string) error { return ownByGroup(next, group, mayRead) })
	if err == nil && group != nil {
		err = ownByGroup(dir, group, mayRead)
	}
	return dir, err
}

func (m *Manager) emptyDir(pod *v1.Pod, v *v1.Volume) (string, error) {
	dir := m.dir(string(pod.UID), "empty-dir", v.Name)
	_, err := os.Stat(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", err
	}
	if v.EmptyDir.Medium == v1.StorageMediumMemory {
		options := ""
		if l := v.EmptyDir.SizeLimit; l != nil && !l.IsZero() {
			options = fmt.Sprintf("size=%d", l.Value())
		}
		if err := mountTmpfs(dir, options); err != nil {
			return "", err
		}
	} else if v.EmptyDir.Medium != v1.StorageMediumDefault {
		return "", fmt.Errorf("emptyDir medium %q is not supported", v.EmptyDir.Medium)
	}
	if !fresh {
		return dir, nil
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return "", err
	}
	return dir, ownByGroup(dir, fsGroup(pod), mayWrite)
}

// mountTmpfs mounts a tmpfs at dir unless there is one.
func mountTmpfs(dir, options string) error {
	mounted, err := isMountPoint(dir)
	if err != nil || mounted {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOATIME, options); err != nil {
		return fmt.Errorf("mounting tmpfs at %s: %w", dir, err)
	}
	return nil
}

// isMountPoint reports whether dir is on another file system than its parent.
func isMountPoint(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Lstat(dir, &here); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &above); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: filepath.Dir(dir), Err: err}
	}
	return here.Dev != above.Dev, nil
}

func fsGroup(pod *v1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// What a volume's group may do with its files: what the kubelet writes itself
// is there to be read.
const (
	mayRead  fs.FileMode = 0o440
	mayWrite fs.FileMode = 0o660
)

// ownByGroup gives everything below dir to the group, which may do with it what
// may says, and new files inherit it (see "fsGroup" in the Pod API).
func ownByGroup(dir string, group *int64, may fs.FileMode) error {
	if group == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, int(*group)); err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode() | may
		if d.IsDir() {
			mode |= 0o110 | fs.ModeSetgid
		}
		return os.Chmod(path, mode)
	})
}

// Unmount takes the pod's volumes away and removes its directory. It may be
// called for pods it does not know.
func (m *Manager) Unmount(ctx context.Context, uid string) error {
	m.mu.Lock()
	delete(m.paths, uid)
	for key := range m.tokens {
		if key.uid == uid {
			delete(m.tokens, key)
		}
	}
	m.mu.Unlock()
	dir := m.PodDir(uid)
	if err := unmountBelow(filepath.Join(dir, "volume-subpaths")); err != nil {
		return err
	}
	if m.CSI != nil {
		// Drivers unmount what they mounted themselves.
		if err := m.CSI.Unmount(ctx, dir); err != nil {
			return err
		}
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing pod directory: %w", err)
	}
	return nil
}

// Pods returns the UIDs of pods that have a directory.
func (m *Manager) Pods() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(m.Root, "pods"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	uids := make([]string, 0, len(entries))
	for _, e := range entries {
		uids = append(uids, e.Name())
	}
	return uids, nil
}

// unmountBelow unmounts everything mounted below dir, deepest first, so that
// removing the directory never reaches into a mounted volume.
func unmountBelow(dir string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("reading mounts: %w", err)
	}
	lines := strings.Split(string(table), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) < 5 {
			continue
		}
		at := unescapeMount(fields[4])
		if strings.HasPrefix(at, dir+"/") {
			if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmounting %s: %w", at, err)
			}
		}
	}
	return nil
}

// unescapeMount undoes the kernel's octal escapes in mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
