package persistentvolume

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// isDefaultClass and its predecessor annotate the default storage class.
const (
	isDefaultClass     = "storageclass.kubernetes.io/is-default-class"
	isDefaultClassBeta = "storageclass.beta.kubernetes.io/is-default-class"
	// inTree is what the names of provisioners begin with that are part of
	// upstream's controller manager.
	inTree = "kubernetes.io/"
)

func isDefault(class *storagev1.StorageClass) bool {
	return class.Annotations[isDefaultClass] == "true" || class.Annotations[isDefaultClassBeta] == "true"
}

// classOf returns the claim's class, or nil if there is none.
func (b *binder) classOf(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*storagev1.StorageClass, error) {
	name := volume.GetPersistentVolumeClaimClass(claim)
	if name == "" {
		return nil, nil
	}
	return get(ctx, b.Cache, types.NamespacedName{Name: name}, &storagev1.StorageClass{})
}

// giveClass gives a claim that was made before there was a default class the
// newest default class; it reports whether there is one.
func (b *binder) giveClass(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	var classes storagev1.StorageClassList
	if err := b.Cache.List(ctx, &classes, crclient.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	var best *storagev1.StorageClass
	for i := range classes.Items {
		c := &classes.Items[i]
		if !isDefault(c) {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&c.CreationTimestamp) ||
			best.CreationTimestamp.Equal(&c.CreationTimestamp) && c.Name < best.Name {
			best = c
		}
	}
	if best == nil {
		return false, nil
	}
	next := claim.DeepCopy()
	next.Spec.StorageClassName = &best.Name
	return true, b.Client.Update(ctx, next)
}

// provision hands the claim to the provisioner of its class, which sees the
// annotation.
func (b *binder) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	if strings.HasPrefix(class.Provisioner, inTree) {
		b.recorder.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "no volume plugin matched name: %s", class.Provisioner)
		return nil
	}
	if claim.Annotations[volume.AnnStorageProvisioner] != class.Provisioner {
		next := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, volume.AnnBetaStorageProvisioner, class.Provisioner)
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, volume.AnnStorageProvisioner, class.Provisioner)
		if err := b.Client.Update(ctx, next); err != nil {
			return err
		}
		next.DeepCopyInto(claim)
	}
	b.recorder.Eventf(claim, corev1.EventTypeNormal, "ExternalProvisioning",
		"Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner)
	return nil
}

// announceWait says for what a claim waits that is bound when a pod uses it.
func (b *binder) announceWait(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	var pods corev1.PodList
	if err := b.Cache.List(ctx, &pods, crclient.InNamespace(claim.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing pods of claim %s: %w", claim.Name, err)
	}
	var waiting []string
	for i := range pods.Items {
		if p := &pods.Items[i]; p.Spec.NodeName == "" && uses(p, claim) {
			waiting = append(waiting, p.Name)
		}
	}
	switch len(waiting) {
	case 0:
		b.recorder.Event(claim, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case 1:
		b.recorder.Eventf(claim, corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pod %s to be scheduled", waiting[0])
	default:
		b.recorder.Eventf(claim, corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pods %s to be scheduled", strings.Join(waiting, ","))
	}
	return nil
}

func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name ||
			v.Ephemeral != nil && pod.Name+"-"+v.Name == claim.Name {
			return true
		}
	}
	return false
}
