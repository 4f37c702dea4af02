package scheduler

import (
	resourcev1 "k8s.io/api/resource/v1"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
)

// deviceSources are of what decides which devices pods can have.
func (s *Scheduler) deviceSources() []source {
	return []source{
		watch(s, &resourcev1.ResourceClaim{}, deviceEvent[*resourcev1.ResourceClaim](s)),
		watch(s, &resourcev1.ResourceSlice{}, deviceEvent[*resourcev1.ResourceSlice](s)),
		watch(s, &resourcev1.DeviceClass{}, s.deviceClassEventLocked),
	}
}

func deviceEvent[T crclient.Object](s *Scheduler) func(old, now T) {
	return func(_, _ T) {
		s.devices.Changed()
		s.mu.queue.Wake(framework.Event{Kind: framework.DeviceChanged})
	}
}

// deviceClassEventLocked forgets the classes of pods: whether a node has an
// extended resource may have changed.
func (s *Scheduler) deviceClassEventLocked(_, _ *resourcev1.DeviceClass) {
	s.devices.ClassesChanged()
	s.mu.classes.Clear()
	s.mu.queue.Wake(framework.Event{Kind: framework.DeviceClassChanged})
}

// wantsDevices reports whether the pod asks for devices as for an extended
// resource.
func (s *Scheduler) wantsDevices(pod *framework.PodInfo) bool {
	for name := range pod.Requests.Scalar {
		if s.devices.Backs(name) {
			return true
		}
	}
	return false
}
