package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
)

// volumeSources are of what decides where volumes can be. Plugins read the
// objects themselves; the events wake the pods that wait for them.
func (s *Scheduler) volumeSources() []source {
	return []source{
		watch(s, &corev1.PersistentVolumeClaim{}, s.claimEventLocked),
		watch(s, &corev1.PersistentVolume{}, volumeEvent(s, samePV)),
		watch(s, &storagev1.StorageClass{}, volumeEvent(s, sameClass)),
		watch(s, &storagev1.CSINode{}, volumeEvent(s, sameCSINode)),
		watch(s, &storagev1.CSIDriver{}, volumeEvent(s, sameDriver)),
		watch(s, &storagev1.CSIStorageCapacity{}, volumeEvent(s, sameCapacity)),
		watch(s, &storagev1.VolumeAttachment{}, volumeEvent(s, sameAttachment)),
	}
}

// volumeEvent makes an event handler for one kind; same reports whether a
// change matters to nobody.
func volumeEvent[T crclient.Object](s *Scheduler, same func(old, now T) bool) func(old, now T) {
	var none T
	return func(old, now T) {
		if any(old) != any(none) && any(now) != any(none) && same(old, now) {
			return
		}
		s.volumes.Changed()
		s.mu.queue.Wake(framework.Event{Kind: framework.VolumeChanged})
	}
}

func samePV(old, now *corev1.PersistentVolume) bool {
	return old.Status.Phase == now.Status.Phase && equality.Semantic.DeepEqual(old.Spec, now.Spec)
}

func sameClass(old, now *storagev1.StorageClass) bool {
	return equality.Semantic.DeepEqual(old.AllowedTopologies, now.AllowedTopologies)
}

func sameCSINode(old, now *storagev1.CSINode) bool {
	return equality.Semantic.DeepEqual(old.Spec, now.Spec)
}

func sameDriver(old, now *storagev1.CSIDriver) bool {
	return equality.Semantic.DeepEqual(old.Spec, now.Spec)
}

func sameCapacity(old, now *storagev1.CSIStorageCapacity) bool {
	return equality.Semantic.DeepEqual(old.Capacity, now.Capacity) && equality.Semantic.DeepEqual(old.MaximumVolumeSize, now.MaximumVolumeSize)
}

func sameAttachment(_, _ *storagev1.VolumeAttachment) bool { return true }

func (s *Scheduler) claimEventLocked(old, now *corev1.PersistentVolumeClaim) {
	if now == nil {
		now = old
	}
	s.volumes.Changed()
	s.mu.queue.Wake(framework.Event{Kind: framework.VolumeChanged, Namespace: now.Namespace, Claim: now.Name})
}
