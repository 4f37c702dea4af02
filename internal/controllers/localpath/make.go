package localpath

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// make provides the volume of a claim.
func (p *provisioner) make(ctx context.Context, key types.NamespacedName) error {
	var claim corev1.PersistentVolumeClaim
	if err := p.Cache.Get(ctx, key, &claim, crclient.UnsafeDisableDeepCopy); err != nil {
		return crclient.IgnoreNotFound(err)
	}
	if !wanting(&claim) {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	err := p.Cache.Get(ctx, types.NamespacedName{Name: name}, &corev1.PersistentVolume{}, crclient.UnsafeDisableDeepCopy)
	if !apierrors.IsNotFound(err) {
		return err
	}
	var class storagev1.StorageClass
	if err := p.Cache.Get(ctx, types.NamespacedName{Name: volume.GetPersistentVolumeClaimClass(&claim)}, &class, crclient.UnsafeDisableDeepCopy); err != nil {
		return crclient.IgnoreNotFound(err)
	}
	failed := func(err error) {
		p.recorder.Eventf(&claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %v", class.Name, err)
	}
	if err := check(&claim); err != nil {
		failed(err)
		return nil
	}
	var node corev1.Node
	err = p.Cache.Get(ctx, types.NamespacedName{Name: claim.Annotations[volume.AnnSelectedNode]}, &node, crclient.UnsafeDisableDeepCopy)
	switch {
	case apierrors.IsNotFound(err):
		// The scheduler is to choose another node.
		failed(fmt.Errorf("node %q is gone", claim.Annotations[volume.AnnSelectedNode]))
		next := claim.DeepCopy()
		delete(next.Annotations, volume.AnnSelectedNode)
		return p.Client.Update(ctx, next)
	case err != nil:
		return err
	}
	p.recorder.Eventf(&claim, corev1.EventTypeNormal, "Provisioning", "External provisioner is provisioning volume for claim %q", key.String())
	path, err := p.nodes.MakeVolume(ctx, &node, fmt.Sprintf("%s_%s_%s", name, claim.Namespace, claim.Name))
	if err != nil {
		failed(err)
		return err
	}
	if err := p.Client.Create(ctx, volumeFor(name, path, &claim, &class, &node)); err != nil && !apierrors.IsAlreadyExists(err) {
		failed(err)
		return err
	}
	p.recorder.Eventf(&claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", name)
	return nil
}

// check says what about the claim a directory cannot give.
func check(claim *corev1.PersistentVolumeClaim) error {
	if claim.Annotations[volume.AnnSelectedNode] == "" {
		return errors.New("no node was chosen: the storage class must have volumeBindingMode WaitForFirstConsumer")
	}
	if claim.Spec.Selector != nil {
		return errors.New("claim.Spec.Selector is not supported")
	}
	if ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) != corev1.PersistentVolumeFilesystem {
		return errors.New("only volumeMode Filesystem is supported")
	}
	if claim.Spec.DataSourceRef != nil {
		return errors.New("claim.Spec.DataSource is not supported")
	}
	for _, mode := range claim.Spec.AccessModes {
		if mode != corev1.ReadWriteOnce && mode != corev1.ReadWriteOncePod {
			return fmt.Errorf("access mode %s is not supported: a directory of one node can be ReadWriteOnce or ReadWriteOncePod", mode)
		}
	}
	return nil
}

func volumeFor(name, path string, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node) *corev1.PersistentVolume {
	host := node.Labels[corev1.LabelHostname]
	if host == "" {
		host = node.Name
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Finalizers:  []string{finalizer},
			Annotations: map[string]string{volume.AnnDynamicallyProvisioned: Provisioner, nodeAnnotation: node.Name},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			StorageClassName:              class.Name,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host},
				}},
			}}}},
		},
	}
}

// remove removes a volume that nobody has a claim to, and its data unless that
// is to be retained.
func (p *provisioner) remove(ctx context.Context, key types.NamespacedName) error {
	var pv corev1.PersistentVolume
	if err := p.Cache.Get(ctx, key, &pv); err != nil {
		return crclient.IgnoreNotFound(err)
	}
	if !unwanted(&pv) {
		return nil
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		var node corev1.Node
		err := p.Cache.Get(ctx, types.NamespacedName{Name: pv.Annotations[nodeAnnotation]}, &node, crclient.UnsafeDisableDeepCopy)
		if err == nil {
			err = p.nodes.RemoveVolume(ctx, &node, pv.Spec.Local.Path)
		}
		// The data of a node that is gone went with it.
		if err != nil && !apierrors.IsNotFound(err) {
			p.recorder.Event(&pv, corev1.EventTypeWarning, "VolumeFailedDelete", err.Error())
			return err
		}
	}
	if pv.DeletionTimestamp == nil {
		if err := p.Client.Delete(ctx, &pv, crclient.Preconditions{UID: &pv.UID}); err != nil {
			return crclient.IgnoreNotFound(err)
		}
		if err := p.Client.Get(ctx, key, &pv); err != nil {
			return crclient.IgnoreNotFound(err)
		}
	}
	kept := pv.Finalizers[:0]
	for _, f := range pv.Finalizers {
		if f != finalizer {
			kept = append(kept, f)
		}
	}
	if len(kept) == len(pv.Finalizers) {
		return nil
	}
	pv.Finalizers = kept
	return crclient.IgnoreNotFound(p.Client.Update(ctx, &pv))
}
