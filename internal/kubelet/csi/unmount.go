package csi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
)

// noteFile holds what is needed to take a volume back; its fields are
// upstream's.
const noteFile = "vol_data.json"

type note struct {
	SpecVolID           string `json:"specVolID,omitempty"`
	VolumeHandle        string `json:"volumeHandle"`
	DriverName          string `json:"driverName"`
	NodeName            string `json:"nodeName,omitempty"`
	AttachmentID        string `json:"attachmentID,omitempty"`
	VolumeLifecycleMode string `json:"volumeLifecycleMode,omitempty"`
}

// note writes down what is about to be mounted for the pod.
func (v *volume) note(node, dir string) error {
	n := note{SpecVolID: v.Name, VolumeHandle: v.handle, DriverName: v.name, NodeName: node, VolumeLifecycleMode: "Persistent"}
	if v.Inline != nil {
		n.VolumeLifecycleMode = "Ephemeral"
	} else {
		n.AttachmentID = AttachmentName(v.handle, v.name, node)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return writeNote(filepath.Join(dir, noteFile), n)
}

func writeNote(path string, n note) error {
	if have, err := readNote(path); err == nil && have == n {
		return nil
	}
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o640)
}

func readNote(path string) (note, error) {
	var n note
	data, err := os.ReadFile(path)
	if err != nil {
		return n, err
	}
	if err := json.Unmarshal(data, &n); err != nil {
		return n, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// volumesDir is where a pod's CSI volumes are, below the pod's directory: in
// volumes, or in volumeDevices if they have no file system.
const volumesDir = "volume*/kubernetes.io~csi"

// stagePath returns where a volume is staged.
func (d *Drivers) stagePath(driver, handle string) string {
	return filepath.Join(d.Root, "plugins/kubernetes.io/csi", driver, fmt.Sprintf("%x", sha256.Sum256([]byte(handle))), "globalmount")
}

// Unmount takes all CSI volumes of a pod back, and unstages those that no other
// pod of the node has.
func (d *Drivers) Unmount(ctx context.Context, podDir string) error {
	dirs, err := filepath.Glob(filepath.Join(podDir, volumesDir, "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		if err := d.unmount(ctx, dir); err != nil {
			errs = append(errs, fmt.Errorf("UnmountVolume.TearDown failed for volume %q: %w", filepath.Base(dir), err))
		}
	}
	return errors.Join(errs...)
}

func (d *Drivers) unmount(ctx context.Context, dir string) error {
	n, err := readNote(filepath.Join(dir, noteFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.locks.lock(n.DriverName + "^" + n.VolumeHandle)()
	driver, err := d.driver(n.DriverName)
	if err != nil {
		return err
	}
	d.setPublished(dir, false)
	target := filepath.Join(dir, mountDir)
	if _, err := driver.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: n.VolumeHandle, TargetPath: target}); err != nil {
		return err
	}
	// The driver should have removed the path. What is mounted there still must
	// not be taken for the pod's own files.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if n.VolumeLifecycleMode != "Ephemeral" {
		if err := d.unstage(ctx, driver, n, dir); err != nil {
			return err
		}
	}
	// With the note it is forgotten.
	err = os.RemoveAll(dir)
	d.recount()
	return err
}

// unstage unstages the volume unless another pod than the one at dir has it.
func (d *Drivers) unstage(ctx context.Context, driver *driver, n note, dir string) error {
	stage := d.stagePath(n.DriverName, n.VolumeHandle)
	data := filepath.Join(filepath.Dir(stage), noteFile)
	if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	others, err := filepath.Glob(filepath.Join(d.Root, "pods/*", volumesDir, "*", noteFile))
	if err != nil {
		return err
	}
	if slices.ContainsFunc(others, func(path string) bool {
		o, err := readNote(path)
		return err == nil && filepath.Dir(path) != dir && o.DriverName == n.DriverName && o.VolumeHandle == n.VolumeHandle
	}) {
		return nil
	}
	if _, err := driver.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: n.VolumeHandle, StagingTargetPath: stage}); err != nil {
		return err
	}
	if err := os.Remove(stage); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(filepath.Dir(stage))
}

// InUse returns the volumes that pods of the node have, by their unique names:
// they must not be detached.
func (d *Drivers) InUse() []v1.UniqueVolumeName {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counted {
		return d.inUse
	}
	notes, err := filepath.Glob(filepath.Join(d.Root, "pods/*", volumesDir, "*", noteFile))
	if err != nil {
		return nil
	}
	var names []v1.UniqueVolumeName
	for _, path := range notes {
		if n, err := readNote(path); err == nil && n.VolumeLifecycleMode != "Ephemeral" {
			names = append(names, UniqueName(n.DriverName, n.VolumeHandle))
		}
	}
	slices.Sort(names)
	d.inUse, d.counted = slices.Compact(names), true
	return d.inUse
}

// recount is called when notes were written or removed.
func (d *Drivers) recount() {
	d.mu.Lock()
	before := d.inUse
	d.counted = false
	d.mu.Unlock()
	if !slices.Equal(before, d.InUse()) {
		d.InUseChanged()
	}
}

// UniqueName is what a volume is called in the status of its nodes.
func UniqueName(driver, handle string) v1.UniqueVolumeName {
	return v1.UniqueVolumeName("kubernetes.io/csi/" + driver + "^" + handle)
}
