// Package attachdetach decides which volumes of CSI drivers are attached to
// which nodes: it makes a VolumeAttachment for each that a pod on a node needs,
// which the driver's external attacher carries out, and removes it when no pod
// needs it and the node has let it go.
package attachdetach

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/index"
)

// forceAfter is how long a node that is not healthy may hold a volume that no
// pod needs.
const forceAfter = 6 * time.Minute

type reconciler struct {
	controller.Deps
	recorder record.EventRecorder
	// waiting is since when an attachment is kept only because its node has not
	waiting beginnings
}

// New makes the controller. A key is a node, without a namespace.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, recorder: d.Recorder("attachdetach-controller")}
	return controller.New(d, "attachdetach", 4, r.reconcile,
		controller.Watch(d, &corev1.Pod{}, func(q controller.Queue, old, pod *corev1.Pod) {
			if pod == nil {
				pod = old
			} else if old != nil && old.Spec.NodeName == pod.Spec.NodeName && done(old) == done(pod) {
				return
			}
			if pod.Spec.NodeName != "" && slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return claimName(pod, &v) != "" }) {
				controller.Add(q, "", pod.Spec.NodeName)
			}
		}),
		controller.Watch(d, &corev1.PersistentVolumeClaim{}, func(q controller.Queue, old, c *corev1.PersistentVolumeClaim) {
			// A pod may be on its node before its claim is bound.
			if c != nil && c.Spec.VolumeName != "" && (old == nil || old.Spec.VolumeName != c.Spec.VolumeName) {
				r.wakePods(q, c.Namespace, c.Name)
			}
		}),
		controller.Watch(d, &corev1.Node{}, func(q controller.Queue, old, n *corev1.Node) {
			if n == nil {
				controller.Add(q, "", old.Name)
			} else if old == nil || !slices.Equal(old.Status.VolumesInUse, n.Status.VolumesInUse) || outOfService(old) != outOfService(n) {
				controller.Add(q, "", n.Name)
			}
		}),
		controller.Watch(d, &storagev1.VolumeAttachment{}, func(q controller.Queue, old, a *storagev1.VolumeAttachment) {
			if a == nil {
				a = old
			}
			controller.Add(q, "", a.Spec.NodeName)
			if a == old && a.Spec.Source.PersistentVolumeName != nil {
				r.wakeRivals(q, *a.Spec.Source.PersistentVolumeName)
			}
		}),
		controller.Watch(d, &storagev1.CSIDriver{}, func(q controller.Queue, old, driver *storagev1.CSIDriver) {
			if old == nil || driver == nil || ptr.Deref(old.Spec.AttachRequired, true) != ptr.Deref(driver.Spec.AttachRequired, true) {
				r.wakeAll(q)
			}
		}))
}

func claimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

// done reports whether the pod's containers have ended for good, so that it
// needs its volumes no more.
func done(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func outOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func (r *reconciler) wakePods(q controller.Queue, namespace, claim string) {
	var pods corev1.PodList
	if err := r.Cache.List(context.Background(), &pods, crclient.InNamespace(namespace), crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing the pods of a claim", "claim", claim, "error", err)
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.Spec.NodeName != "" && slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return claimName(p, &v) == claim }) {
			controller.Add(q, "", p.Spec.NodeName)
		}
	}
}

// wakeRivals looks again at the nodes whose pods may wait for the volume.
func (r *reconciler) wakeRivals(q controller.Queue, volume string) {
	var pv corev1.PersistentVolume
	if r.Cache.Get(context.Background(), types.NamespacedName{Name: volume}, &pv, crclient.UnsafeDisableDeepCopy) == nil && pv.Spec.ClaimRef != nil {
		r.wakePods(q, pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name)
	}
}

func (r *reconciler) wakeAll(q controller.Queue) {
	var nodes corev1.NodeList
	if err := r.Cache.List(context.Background(), &nodes, crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing nodes", "error", err)
	}
	for i := range nodes.Items {
		controller.Add(q, "", nodes.Items[i].Name)
	}
}

// need is a volume that pods of a node need.
type need struct {
	pv  *corev1.PersistentVolume
	pod *corev1.Pod
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	needs, err := r.needs(ctx, key.Name)
	if err != nil {
		return reconcile.Result{}, err
	}
	var all storagev1.VolumeAttachmentList
	if err := r.Cache.List(ctx, &all, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	var node corev1.Node
	err = r.Cache.Get(ctx, key, &node, crclient.UnsafeDisableDeepCopy)
	if crclient.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, err
	}
	exists := err == nil
	var errs []error
	var result reconcile.Result
	here := map[string]*storagev1.VolumeAttachment{}
	for i := range all.Items {
		a := &all.Items[i]
		if a.Spec.NodeName != key.Name || a.Spec.Source.PersistentVolumeName == nil || !ours(a.Name) {
			continue
		}
		here[a.Name] = a
		if _, needed := needs[a.Name]; needed {
			r.waiting.clear(a.Name)
			continue
		}
		wait, err := r.detach(ctx, a, &node, exists)
		if err != nil {
			errs = append(errs, err)
		} else if wait > 0 && (result.RequeueAfter == 0 || wait < result.RequeueAfter) {
			result.RequeueAfter = wait
		}
	}
	if exists {
		for name, n := range needs {
			if here[name] == nil {
				if err := r.attach(ctx, name, n, key.Name, all.Items); err != nil {
					errs = append(errs, err)
				}
			}
		}
		if err := r.report(ctx, &node, needs, here); err != nil {
			errs = append(errs, err)
		}
	}
	return result, errors.Join(errs...)
}

// needs returns the volumes that pods of the node need attached, by the name
// of the attachment.
func (r *reconciler) needs(ctx context.Context, node string) (map[string]need, error) {
	var pods corev1.PodList
	if err := r.Cache.List(ctx, &pods, crclient.MatchingFields{index.Node: node}, crclient.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	out := map[string]need{}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if done(pod) {
			continue
		}
		for j := range pod.Spec.Volumes {
			name := claimName(pod, &pod.Spec.Volumes[j])
			if name == "" {
				continue
			}
			pv, err := r.volume(ctx, pod.Namespace, name)
			if err != nil {
				return nil, err
			}
			if pv == nil {
				continue
			}
			required, err := r.attachRequired(ctx, pv.Spec.CSI.Driver)
			if err != nil {
				return nil, err
			}
			if required {
				out[attachmentName(pv.Spec.CSI, node)] = need{pv, pod}
			}
		}
	}
	return out, nil
}

// volume returns the CSI volume that the claim is bound to, or nil.
func (r *reconciler) volume(ctx context.Context, namespace, claimName string) (*corev1.PersistentVolume, error) {
	var claim corev1.PersistentVolumeClaim
	err := r.Cache.Get(ctx, types.NamespacedName{Namespace: namespace, Name: claimName}, &claim, crclient.UnsafeDisableDeepCopy)
	if err != nil || claim.Spec.VolumeName == "" || claim.Status.Phase != corev1.ClaimBound {
		return nil, crclient.IgnoreNotFound(err)
	}
	pv := &corev1.PersistentVolume{}
	if err := r.Cache.Get(ctx, types.NamespacedName{Name: claim.Spec.VolumeName}, pv, crclient.UnsafeDisableDeepCopy); err != nil {
		return nil, crclient.IgnoreNotFound(err)
	}
	if pv.Spec.CSI == nil || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
		return nil, nil
	}
	return pv, nil
}

func (r *reconciler) attachRequired(ctx context.Context, driver string) (bool, error) {
	var object storagev1.CSIDriver
	err := r.Cache.Get(ctx, types.NamespacedName{Name: driver}, &object, crclient.UnsafeDisableDeepCopy)
	return err != nil || ptr.Deref(object.Spec.AttachRequired, true), crclient.IgnoreNotFound(err)
}

// attachmentName is upstream's, which kubelets work out for themselves.
func attachmentName(s *corev1.CSIPersistentVolumeSource, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(s.VolumeHandle+s.Driver+node)))
}

// attach asks for the volume to be attached, unless it is attached elsewhere and
// may be at one node only.
func (r *reconciler) attach(ctx context.Context, name string, n need, node string, all []storagev1.VolumeAttachment) error {
	for i := range all {
		a := &all[i]
		if ptr.Deref(a.Spec.Source.PersistentVolumeName, "") != n.pv.Name || a.Spec.NodeName == node || shareable(n.pv) {
			continue
		}
		// Its detachment wakes this node.
		r.recorder.Eventf(n.pod, corev1.EventTypeWarning, "FailedAttachVolume",
			"Multi-Attach error for volume %q Volume is already exclusively attached to one node and can't be attached to another", n.pv.Name)
		return nil
	}
	err := r.Client.Create(ctx, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: storagev1.VolumeAttachmentSpec{
			Attacher: n.pv.Spec.CSI.Driver, NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &n.pv.Name},
		},
	})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// ours reports whether a name looks like one of attachmentName's: others may
// make attachments too.
func ours(name string) bool {
	digest, is := strings.CutPrefix(name, "csi-")
	_, err := hex.DecodeString(digest)
	return is && err == nil && len(digest) == hex.EncodedLen(sha256.Size)
}

func shareable(pv *corev1.PersistentVolume) bool {
	return len(pv.Spec.AccessModes) == 0 || slices.ContainsFunc(pv.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadWriteMany || m == corev1.ReadOnlyMany
	})
}

// detach gives up an attachment that no pod needs, when the node has let the
// volume go. It returns how long to wait if it is not known that it ever will.
func (r *reconciler) detach(ctx context.Context, a *storagev1.VolumeAttachment, node *corev1.Node, exists bool) (time.Duration, error) {
	if a.DeletionTimestamp != nil {
		return 0, nil
	}
	if exists && !outOfService(node) {
		var pv corev1.PersistentVolume
		err := r.Cache.Get(ctx, types.NamespacedName{Name: *a.Spec.Source.PersistentVolumeName}, &pv, crclient.UnsafeDisableDeepCopy)
		if crclient.IgnoreNotFound(err) != nil {
			return 0, err
		}
		if err == nil && pv.Spec.CSI != nil && slices.Contains(node.Status.VolumesInUse, uniqueName(pv.Spec.CSI)) {
			left := r.waiting.began(a.Name, r.Clock.Now()).Add(forceAfter).Sub(r.Clock.Now())
			if left > 0 || healthy(node) {
				return max(left, 0), nil
			}
		}
	}
	r.waiting.clear(a.Name)
	return 0, crclient.IgnoreNotFound(r.Client.Delete(ctx, a, crclient.Preconditions{UID: &a.UID}))
}

func healthy(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func uniqueName(s *corev1.CSIPersistentVolumeSource) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + s.Driver + "^" + s.VolumeHandle)
}

// report says in the node's status what is attached, and tells pods.
func (r *reconciler) report(ctx context.Context, node *corev1.Node, needs map[string]need, here map[string]*storagev1.VolumeAttachment) error {
	var attached []corev1.AttachedVolume
	for name, a := range here {
		if !a.Status.Attached {
			if n, needed := needs[name]; needed && a.Status.AttachError != nil {
				r.recorder.Eventf(n.pod, corev1.EventTypeWarning, "FailedAttachVolume", "AttachVolume.Attach failed for volume %q : %s",
					*a.Spec.Source.PersistentVolumeName, a.Status.AttachError.Message)
			}
			continue
		}
		var pv corev1.PersistentVolume
		err := r.Cache.Get(ctx, types.NamespacedName{Name: *a.Spec.Source.PersistentVolumeName}, &pv, crclient.UnsafeDisableDeepCopy)
		if apierrors.IsNotFound(err) || err == nil && pv.Spec.CSI == nil {
			continue
		}
		if err != nil {
			return err
		}
		v := corev1.AttachedVolume{Name: uniqueName(pv.Spec.CSI), DevicePath: ""}
		if n, needed := needs[name]; needed && !slices.Contains(node.Status.VolumesAttached, v) {
			r.recorder.Eventf(n.pod, corev1.EventTypeNormal, "SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume %q ", pv.Name)
		}
		attached = append(attached, v)
	}
	slices.SortFunc(attached, func(a, b corev1.AttachedVolume) int { return strings.Compare(string(a.Name), string(b.Name)) })
	if slices.Equal(attached, node.Status.VolumesAttached) {
		return nil
	}
	next := node.DeepCopy()
	next.Status.VolumesAttached = attached
	return crclient.IgnoreNotFound(r.Client.Status().Patch(ctx, next, crclient.MergeFrom(node)))
}
