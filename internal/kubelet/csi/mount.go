package csi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// Request is a volume that a pod needs.
type Request struct {
	Pod *v1.Pod
	// Name is the persistent volume's, or the volume's in the pod if it is Inline.
	Name   string
	PV     *v1.PersistentVolume
	Inline *v1.CSIVolumeSource
	// Dir is the volume's directory below the pod's.
	Dir      string
	ReadOnly bool
	// Block is true if the pod gets the device, and not a file system on it.
	Block bool
	// SizeOnNode is the size of the file system as the claim has it.
	SizeOnNode int64
}

// Mounted is what became of a request.
type Mounted struct {
	// Path is where the volume is.
	Path string
	// SetGroup is true if the files are to be given to the pod's fsGroup here.
	SetGroup bool
	// Expanded is true if the volume has got the size of the persistent volume.
	Expanded bool
	// Renew is when it must be mounted again for new tokens; zero for never.
	Renew time.Time
	// CanExpand is true if the driver grows file systems on the node.
	CanExpand bool
}

// volume is a request in the driver's terms.
type volume struct {
	Request
	*driver
	object     *storagev1.CSIDriver
	handle     string
	attributes map[string]string
	fsType     string
	capability *csi.VolumeCapability
	// stage is where it is staged, if the driver stages.
	stage string
	// publish is what the driver said when it attached the volume.
	attachment map[string]string
	// group is the pod's fsGroup if the driver applies it itself.
	group string
}

// Mount makes a volume available at the path it returns. It may be called
// again at any time.
func (d *Drivers) Mount(ctx context.Context, r Request) (Mounted, error) {
	v, err := d.volume(ctx, r)
	if err != nil {
		return Mounted{}, err
	}
	defer d.locks.lock(v.name + "^" + v.handle)()
	out := Mounted{Path: filepath.Join(r.Dir, mountDir), SetGroup: v.setGroup(), CanExpand: v.PV != nil && v.can[csi.NodeServiceCapability_RPC_EXPAND_VOLUME]}
	if !d.isPublished(r.Dir) || v.object != nil && ptr.Deref(v.object.Spec.RequiresRepublish, false) {
		if err := d.makeReady(ctx, v, &out); err != nil {
			return Mounted{}, err
		}
	}
	if out.CanExpand && !r.ReadOnly {
		out.Expanded, err = v.expand(ctx, out.Path)
	}
	return out, err
}

// makeReady stages and publishes the volume.
func (d *Drivers) makeReady(ctx context.Context, v *volume, out *Mounted) (err error) {
	if v.attachment, err = d.attached(ctx, v); err != nil {
		return err
	}
	if err := v.note(d.NodeName, v.Dir); err != nil {
		return err
	}
	d.recount()
	if v.stage != "" {
		if err := d.stage(ctx, v); err != nil {
			return fmt.Errorf("MountVolume.MountDevice failed: %w", err)
		}
	}
	if err := d.publish(ctx, v, out); err != nil {
		return err
	}
	d.setPublished(v.Dir, true)
	return nil
}

func (d *Drivers) isPublished(dir string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.published[dir]
}

func (d *Drivers) setPublished(dir string, is bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !is {
		delete(d.published, dir)
		return
	}
	if d.published == nil {
		d.published = map[string]bool{}
	}
	d.published[dir] = true
}

// mountDir is the directory in a volume's that it is mounted at.
const mountDir = "mount"

func (d *Drivers) volume(ctx context.Context, r Request) (*volume, error) {
	v := &volume{Request: r}
	name := ""
	var modes []v1.PersistentVolumeAccessMode
	var options []string
	switch {
	case r.Inline != nil:
		name, v.attributes, v.fsType = r.Inline.Driver, r.Inline.VolumeAttributes, ptr.Deref(r.Inline.FSType, "")
		v.handle = fmt.Sprintf("csi-%x", sha256.Sum256([]byte(string(r.Pod.UID)+r.Name)))
		modes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}
	case r.PV != nil && r.PV.Spec.CSI != nil:
		s := r.PV.Spec.CSI
		name, v.handle, v.attributes, v.fsType = s.Driver, s.VolumeHandle, s.VolumeAttributes, s.FSType
		modes, options = r.PV.Spec.AccessModes, r.PV.Spec.MountOptions
	default:
		return nil, errors.New("the volume is not of a CSI driver")
	}
	var err error
	if v.driver, err = d.driver(name); err != nil {
		return nil, err
	}
	object := &storagev1.CSIDriver{}
	switch err := d.Client.Get(ctx, ctrl.ObjectKey{Name: name}, object); {
	case err == nil:
		v.object = object
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	if r.Inline != nil && !v.lifecycle(storagev1.VolumeLifecycleEphemeral) {
		return nil, fmt.Errorf("volume mode %q not supported by driver %s (no CSIDriver object, or it does not list it)", storagev1.VolumeLifecycleEphemeral, name)
	}
	if r.Inline == nil && v.can[csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME] {
		v.stage = d.stagePath(name, v.handle)
	}
	mount := &csi.VolumeCapability_MountVolume{FsType: v.fsType, MountFlags: options}
	if g := fsGroup(r.Pod); g != nil && v.can[csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP] {
		v.group = fmt.Sprint(*g)
		mount.VolumeMountGroup = v.group
	}
	v.capability = &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: mount},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: accessMode(modes, v.can[csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER])},
	}
	if r.Block {
		v.capability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	}
	return v, nil
}

// lifecycle reports whether the driver supports the mode.
func (v *volume) lifecycle(mode storagev1.VolumeLifecycleMode) bool {
	if v.object == nil || len(v.object.Spec.VolumeLifecycleModes) == 0 {
		return mode == storagev1.VolumeLifecyclePersistent
	}
	for _, m := range v.object.Spec.VolumeLifecycleModes {
		if m == mode {
			return true
		}
	}
	return false
}

func accessMode(modes []v1.PersistentVolumeAccessMode, multiWriter bool) csi.VolumeCapability_AccessMode_Mode {
	has := map[v1.PersistentVolumeAccessMode]bool{}
	for _, m := range modes {
		has[m] = true
	}
	switch {
	case has[v1.ReadWriteMany]:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case has[v1.ReadOnlyMany] && has[v1.ReadWriteOnce]:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
	case has[v1.ReadOnlyMany]:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case has[v1.ReadWriteOncePod] && multiWriter:
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case has[v1.ReadWriteOnce] && multiWriter:
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	}
	return csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
}

func fsGroup(pod *v1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// setGroup says whether the kubelet is to give the files to the fsGroup, which
// the driver's policy decides.
func (v *volume) setGroup() bool {
	if v.group != "" || v.ReadOnly || v.Block {
		return false
	}
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if v.object != nil && v.object.Spec.FSGroupPolicy != nil {
		policy = *v.object.Spec.FSGroupPolicy
	}
	switch policy {
	case storagev1.FileFSGroupPolicy:
		return true
	case storagev1.NoneFSGroupPolicy:
		return false
	}
	if v.Inline != nil {
		return v.fsType != ""
	}
	for _, m := range v.PV.Spec.AccessModes {
		if m == v1.ReadWriteOnce || m == v1.ReadWriteOncePod {
			return v.fsType != ""
		}
	}
	return false
}

// AttachmentName is the name of the VolumeAttachment of a volume on a node.
func AttachmentName(handle, driver, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(handle+driver+node)))
}

// attached returns what the driver's controller said when it attached the
// volume to this node, or an error if it has not, and must.
func (d *Drivers) attached(ctx context.Context, v *volume) (map[string]string, error) {
	if v.Inline != nil || v.object != nil && !ptr.Deref(v.object.Spec.AttachRequired, true) {
		return nil, nil
	}
	a := &storagev1.VolumeAttachment{}
	name := AttachmentName(v.handle, v.name, d.NodeName)
	err := d.Client.Get(ctx, ctrl.ObjectKey{Name: name}, a)
	// A node may not read what does not exist.
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("volume attachment %s is not there yet", name)
	}
	switch {
	case err != nil:
		return nil, err
	case a.Status.AttachError != nil:
		return nil, fmt.Errorf("AttachVolume.Attach failed: %s", a.Status.AttachError.Message)
	case !a.Status.Attached:
		return nil, fmt.Errorf("volume attachment %s is not attached yet", name)
	}
	return a.Status.AttachmentMetadata, nil
}

// stage stages the volume on the node, for all pods.
func (d *Drivers) stage(ctx context.Context, v *volume) error {
	data := filepath.Join(filepath.Dir(v.stage), noteFile)
	var secrets map[string]string
	var err error
	if ref := v.PV.Spec.CSI.NodeStageSecretRef; ref != nil {
		if secrets, err = d.secrets(ctx, ref.Namespace, ref.Name); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(v.stage, 0o750); err != nil {
		return err
	}
	if err := writeNote(data, note{VolumeHandle: v.handle, DriverName: v.name}); err != nil {
		return err
	}
	_, err = v.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.handle, PublishContext: v.attachment, StagingTargetPath: v.stage,
		VolumeCapability: v.capability, Secrets: secrets, VolumeContext: v.attributes,
	})
	return err
}

func (d *Drivers) publish(ctx context.Context, v *volume, out *Mounted) error {
	attributes := map[string]string{}
	for key, value := range v.attributes {
		attributes[key] = value
	}
	if v.object != nil && ptr.Deref(v.object.Spec.PodInfoOnMount, false) {
		attributes["csi.storage.k8s.io/pod.name"] = v.Pod.Name
		attributes["csi.storage.k8s.io/pod.namespace"] = v.Pod.Namespace
		attributes["csi.storage.k8s.io/pod.uid"] = string(v.Pod.UID)
		attributes["csi.storage.k8s.io/serviceAccount.name"] = v.Pod.Spec.ServiceAccountName
		attributes["csi.storage.k8s.io/ephemeral"] = fmt.Sprint(v.Inline != nil)
	}
	var secrets map[string]string
	var err error
	switch {
	case v.Inline != nil && v.Inline.NodePublishSecretRef != nil:
		secrets, err = d.secrets(ctx, v.Pod.Namespace, v.Inline.NodePublishSecretRef.Name)
	case v.PV != nil && v.PV.Spec.CSI.NodePublishSecretRef != nil:
		ref := v.PV.Spec.CSI.NodePublishSecretRef
		secrets, err = d.secrets(ctx, ref.Namespace, ref.Name)
	}
	if err != nil {
		return err
	}
	if v.object != nil && len(v.object.Spec.TokenRequests) > 0 {
		tokens, renew, err := d.tokens(ctx, v)
		if err != nil {
			return err
		}
		if ptr.Deref(v.object.Spec.RequiresRepublish, false) {
			out.Renew = renew
		}
		if ptr.Deref(v.object.Spec.ServiceAccountTokenInSecrets, false) {
			if secrets == nil {
				secrets = map[string]string{}
			}
			secrets[tokensKey] = tokens
		} else {
			attributes[tokensKey] = tokens
		}
	}
	if err := os.MkdirAll(v.Dir, 0o750); err != nil {
		return err
	}
	_, err = v.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.handle, PublishContext: v.attachment, StagingTargetPath: v.stage, TargetPath: out.Path,
		VolumeCapability: v.capability, Readonly: v.ReadOnly, Secrets: secrets, VolumeContext: attributes,
	})
	return err
}

const tokensKey = "csi.storage.k8s.io/serviceAccount.tokens"

// tokens returns the tokens that the driver asks for, as JSON by audience, and
// when they must be renewed.
func (d *Drivers) tokens(ctx context.Context, v *volume) (string, time.Time, error) {
	var renew time.Time
	out := map[string]authv1.TokenRequestStatus{}
	for _, wish := range v.object.Spec.TokenRequests {
		request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
			ExpirationSeconds: wish.ExpirationSeconds,
			BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: v.Pod.Name, UID: v.Pod.UID},
		}}
		if wish.Audience != "" {
			request.Spec.Audiences = []string{wish.Audience}
		}
		if err := d.Tokens(ctx, v.Pod.Namespace, v.Pod.Spec.ServiceAccountName, request); err != nil {
			return "", renew, fmt.Errorf("fetching a token for CSI driver %s: %w", v.name, err)
		}
		out[wish.Audience] = request.Status
		life := request.Status.ExpirationTimestamp.Time
		if at := life.Add(-lifetime(wish.ExpirationSeconds) / 5); renew.IsZero() || at.Before(renew) {
			renew = at
		}
	}
	text, err := json.Marshal(out)
	return string(text), renew, err
}

// lifetime is how long a token lives that was asked for so.
func lifetime(seconds *int64) time.Duration {
	return time.Duration(ptr.Deref(seconds, 3600)) * time.Second
}

func (d *Drivers) secrets(ctx context.Context, namespace, name string) (map[string]string, error) {
	s, err := d.Secret(ctx, namespace, name)
	if err != nil {
		return nil, fmt.Errorf("reading the secret of the volume: %w", err)
	}
	out := map[string]string{}
	for key, value := range s.Data {
		out[key] = string(value)
	}
	return out, nil
}

// expand grows the file system to the size of the persistent volume; it
// reports whether it did.
func (v *volume) expand(ctx context.Context, path string) (bool, error) {
	size := v.PV.Spec.Capacity[v1.ResourceStorage]
	if v.SizeOnNode == 0 || size.Value() <= v.SizeOnNode {
		return false, nil
	}
	_, err := v.node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: v.handle, VolumePath: path, StagingTargetPath: v.stage,
		CapacityRange: &csi.CapacityRange{RequiredBytes: size.Value()}, VolumeCapability: v.capability,
	})
	if err != nil {
		return false, fmt.Errorf("MountVolume.NodeExpandVolume failed: %w", err)
	}
	return true, nil
}
