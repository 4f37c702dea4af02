package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/utils/ptr"

	"skiff/internal/kubelet/csi"
)

// lookForGrowth is how often the kubelet looks whether volumes that it has to
// expand have grown: a node may not watch claims.
const lookForGrowth = time.Minute

// claimed makes the volume ready that is bound to the claim of a pod's volume.
func (m *Manager) claimed(ctx context.Context, pod *v1.Pod, v *v1.Volume) (string, time.Time, error) {
	name, readOnly := "", false
	if v.Ephemeral != nil {
		name = ephemeral.VolumeClaimName(pod, v)
	} else {
		name, readOnly = v.PersistentVolumeClaim.ClaimName, v.PersistentVolumeClaim.ReadOnly
	}
	claim, err := m.Objects.PersistentVolumeClaim(ctx, pod.Namespace, name)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("error processing PVC %s/%s: failed to fetch PVC from API server: %w", pod.Namespace, name, err)
	}
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return "", time.Time{}, err
		}
	}
	if claim.DeletionTimestamp != nil && m.path(string(pod.UID), v.Name) == "" {
		return "", time.Time{}, fmt.Errorf("error processing PVC %s/%s: PVC is being deleted", pod.Namespace, name)
	}
	if claim.Status.Phase != v1.ClaimBound || claim.Spec.VolumeName == "" {
		return "", time.Time{}, fmt.Errorf("error processing PVC %s/%s: PVC is not bound", pod.Namespace, name)
	}
	pv, err := m.Objects.PersistentVolume(ctx, claim.Spec.VolumeName)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err)
	}
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
		return "", time.Time{}, fmt.Errorf("persistentvolume %q is bound to another claim than %q", pv.Name, name)
	}
	block := ptr.Deref(pv.Spec.VolumeMode, v1.PersistentVolumeFilesystem) == v1.PersistentVolumeBlock
	if pv.Spec.CSI != nil {
		return m.csiVolume(ctx, pod, v, csi.Request{
			Pod: pod, Name: pv.Name, PV: pv, ReadOnly: readOnly || pv.Spec.CSI.ReadOnly, Block: block, SizeOnNode: claim.Status.Capacity.Storage().Value(),
		}, claim)
	}
	if block {
		path, err := localDevice(pv)
		return path, time.Time{}, err
	}
	path, err := m.persistent(ctx, pod, pv, readOnly)
	return path, time.Time{}, err
}

// localDevice returns the device that a local volume without a file system is.
func localDevice(pv *v1.PersistentVolume) (string, error) {
	if pv.Spec.Local == nil {
		return "", fmt.Errorf("no volume plugin matched: this kubelet does not support block volumes of the kind of persistent volume %q", pv.Name)
	}
	path, err := filepath.EvalSymlinks(pv.Spec.Local.Path)
	if err != nil {
		return "", fmt.Errorf("path %q of local volume %q does not exist: %w", pv.Spec.Local.Path, pv.Name, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0 {
		return "", fmt.Errorf("path %q of local volume %q is not a block device", path, pv.Name)
	}
	return path, nil
}

// persistent makes a volume ready that needs no driver.
func (m *Manager) persistent(ctx context.Context, pod *v1.Pod, pv *v1.PersistentVolume, readOnly bool) (string, error) {
	uid := string(pod.UID)
	switch {
	case pv.Spec.HostPath != nil:
		path := pv.Spec.HostPath.Path
		if err := prepareHostPath(pv.Spec.HostPath); err != nil || !readOnly {
			return path, err
		}
		return m.show(path, m.dir(uid, "host-path", pv.Name), true)
	case pv.Spec.Local != nil:
		path := pv.Spec.Local.Path
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("path %q of local volume %q does not exist: %w", path, pv.Name, err)
		}
		if !readOnly {
			if err := ownVolume(path, pod); err != nil {
				return "", err
			}
		}
		return m.show(path, m.dir(uid, "local-volume", pv.Name), readOnly)
	case pv.Spec.NFS != nil:
		return m.nfs(ctx, pod, pv.Name, pv.Spec.NFS, readOnly, pv.Spec.MountOptions)
	}
	return "", fmt.Errorf("no volume plugin matched: this kubelet does not support the kind of persistent volume %q", pv.Name)
}

// csiVolume makes a volume of a CSI driver ready. The claim is nil for a
// volume that the pod itself describes.
func (m *Manager) csiVolume(ctx context.Context, pod *v1.Pod, v *v1.Volume, r csi.Request, claim *v1.PersistentVolumeClaim) (string, time.Time, error) {
	if m.CSI == nil {
		return "", time.Time{}, fmt.Errorf("volume %q: this kubelet has no CSI drivers", v.Name)
	}
	r.Dir = m.dir(string(pod.UID), "csi", r.Name)
	if r.Block {
		r.Dir = filepath.Join(m.PodDir(string(pod.UID)), "volumeDevices", "kubernetes.io~csi", r.Name)
	}
	known := m.path(string(pod.UID), v.Name) != ""
	mounted, err := m.CSI.Mount(ctx, r)
	if err != nil {
		return "", time.Time{}, err
	}
	if mounted.SetGroup && !known {
		if err := ownVolume(mounted.Path, pod); err != nil {
			return "", time.Time{}, err
		}
	}
	if mounted.Expanded && claim != nil {
		if err := m.Objects.ClaimExpanded(ctx, claim, r.PV.Spec.Capacity[v1.ResourceStorage]); err != nil {
			return "", time.Time{}, err
		}
	}
	renew := mounted.Renew
	if mounted.CanExpand {
		if at := m.Clock.Now().Add(lookForGrowth); renew.IsZero() || at.Before(renew) {
			renew = at
		}
	}
	return mounted.Path, renew, nil
}

// show mounts what is at path at target, and returns where it is.
func (m *Manager) show(path, target string, readOnly bool) (string, error) {
	mounted, err := isMounted(target)
	if err != nil || mounted {
		return target, err
	}
	opened, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer opened.Close()
	if err := bind(opened, target); err != nil {
		return "", err
	}
	if !readOnly {
		return target, nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return "", errors.Join(fmt.Errorf("making %s read-only: %w", target, err), unix.Unmount(target, unix.MNT_DETACH))
	}
	return target, nil
}

// nfs mounts a directory of an NFS server with the system's mount program,
// which knows how to negotiate.
func (m *Manager) nfs(ctx context.Context, pod *v1.Pod, name string, s *v1.NFSVolumeSource, readOnly bool, options []string) (string, error) {
	target := m.dir(string(pod.UID), "nfs", name)
	if mounted, err := isMounted(target); err != nil || mounted {
		return target, err
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return "", err
	}
	if s.ReadOnly || readOnly {
		options = append(options[:len(options):len(options)], "ro")
	}
	server := s.Server
	if strings.Contains(server, ":") && !strings.HasPrefix(server, "[") {
		server = "[" + server + "]"
	}
	args := []string{"-t", "nfs"}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	out, err := exec.CommandContext(ctx, "mount", append(args, server+":"+s.Path, target)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mounting %s:%s: %w: %s (the node needs mount.nfs of nfs-utils or nfs-common)", server, s.Path, err, strings.TrimSpace(string(out)))
	}
	return target, nil
}

// isMounted reports whether something is mounted exactly at path. Unlike
// isMountPoint it sees bind mounts of the same file system.
func isMounted(path string) (bool, error) {
	var here unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, &here)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	if here.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return isMountPoint(path)
	}
	return here.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// ownVolume gives a persistent volume to the pod's fsGroup; with the policy
// OnRootMismatch only if its root is not the group's already.
func ownVolume(dir string, pod *v1.Pod) error {
	group := fsGroup(pod)
	if group == nil {
		return nil
	}
	policy := ptr.Deref(pod.Spec.SecurityContext.FSGroupChangePolicy, v1.FSGroupChangeAlways)
	if policy == v1.FSGroupChangeOnRootMismatch {
		var root unix.Stat_t
		if err := unix.Stat(dir, &root); err != nil {
			return &fs.PathError{Op: "stat", Path: dir, Err: err}
		}
		const wanted = 0o770 | unix.S_ISGID
		if int64(root.Gid) == *group && root.Mode&wanted == wanted {
			return nil
		}
	}
	return ownByGroup(dir, group, mayWrite)
}

// path returns where a volume is, or nothing if it is not mounted.
func (m *Manager) path(uid, volume string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.paths[uid][volume]
}

// inlineCSI makes a volume ready that the pod describes itself.
func (m *Manager) inlineCSI(ctx context.Context, pod *v1.Pod, v *v1.Volume) (string, time.Time, error) {
	return m.csiVolume(ctx, pod, v, csi.Request{Pod: pod, Name: v.Name, Inline: v.CSI, ReadOnly: ptr.Deref(v.CSI.ReadOnly, false)}, nil)
}
