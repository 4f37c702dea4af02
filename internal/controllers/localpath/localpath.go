// Package localpath provides persistent volumes out of the box: directories on
// the node of the first pod that uses them, made when the pod is scheduled and
// removed with the claim. The nodes make and remove the directories themselves,
// asked over their API, so that a node needs no rights on persistent volumes.
package localpath

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

const (
	// Provisioner is the name that storage classes give.
	Provisioner = "skiff.local/path"
	// Class is the storage class that every cluster has.
	Class = "local-path"
	// nodeAnnotation on a volume names its node; finalizer keeps the volume
	// until its directory is gone.
	nodeAnnotation = "skiff.local/node"
	finalizer      = Provisioner
)

// Nodes makes and removes directories on nodes.
type Nodes interface {
	// MakeVolume makes a directory unless it is there, and says where it is.
	MakeVolume(ctx context.Context, node *corev1.Node, name string) (path string, err error)
	// RemoveVolume removes the directory with all that is in it.
	RemoveVolume(ctx context.Context, node *corev1.Node, path string) error
}

// EnsureClass makes the default storage class unless there is one of its name.
func EnsureClass(ctx context.Context, c crclient.Client) error {
	err := c.Create(ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{
			Name:        Class,
			Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"},
		},
		Provisioner:       Provisioner,
		ReclaimPolicy:     ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create storage class %s: %w", Class, err)
	}
	return nil
}

type provisioner struct {
	controller.Deps
	nodes    Nodes
	recorder record.EventRecorder
}

// New makes the provisioner. A key is a claim, or a volume, which has no
// namespace.
func New(d controller.Deps, nodes Nodes) (controller.Runnable, error) {
	p := &provisioner{d, nodes, d.Recorder(Provisioner)}
	return controller.New(d, "localpath", 4, p.reconcile,
		controller.Watch(d, &corev1.PersistentVolumeClaim{}, func(q controller.Queue, _, c *corev1.PersistentVolumeClaim) {
			if c != nil && wanting(c) {
				controller.Add(q, c.Namespace, c.Name)
			}
		}),
		controller.Watch(d, &corev1.PersistentVolume{}, func(q controller.Queue, _, pv *corev1.PersistentVolume) {
			if pv != nil && unwanted(pv) {
				controller.Add(q, "", pv.Name)
			}
		}),
		// A node that comes back can remove what was given up meanwhile; one that
		// is gone has nothing left to remove.
		controller.Watch(d, &corev1.Node{}, func(q controller.Queue, old, node *corev1.Node) {
			if node == nil {
				p.wake(q, old.Name)
			} else if old != nil && ready(node) && !ready(old) {
				p.wake(q, node.Name)
			}
		}))
}

func ready(n *corev1.Node) bool {
	for i := range n.Status.Conditions {
		if c := &n.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (p *provisioner) wake(q controller.Queue, node string) {
	var volumes corev1.PersistentVolumeList
	if err := p.Cache.List(context.Background(), &volumes, crclient.UnsafeDisableDeepCopy); err != nil {
		p.Log.Error("listing the volumes of a node", "node", node, "error", err)
	}
	for i := range volumes.Items {
		if pv := &volumes.Items[i]; pv.Annotations[nodeAnnotation] == node && unwanted(pv) {
			controller.Add(q, "", pv.Name)
		}
	}
}

// wanting reports whether a directory is to be made for the claim.
func wanting(c *corev1.PersistentVolumeClaim) bool {
	return c.Annotations[volume.AnnStorageProvisioner] == Provisioner && c.Spec.VolumeName == "" && c.DeletionTimestamp == nil
}

// unwanted reports whether nobody has a claim to the volume any more.
func unwanted(pv *corev1.PersistentVolume) bool {
	if pv.Annotations[volume.AnnDynamicallyProvisioned] != Provisioner || pv.Spec.Local == nil {
		return false
	}
	return pv.Status.Phase == corev1.VolumeReleased && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete ||
		pv.DeletionTimestamp != nil && pv.Status.Phase != corev1.VolumeBound
}

func (p *provisioner) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	if key.Namespace == "" {
		return reconcile.Result{}, p.remove(ctx, key)
	}
	return reconcile.Result{}, p.make(ctx, key)
}
