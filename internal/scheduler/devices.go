package scheduler

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
)

// followDevices takes in events of what decides which devices pods can have.
func (s *Scheduler) followDevices(ctx context.Context) (stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	for _, start := range []func() (func(), error){
		func() (func(), error) {
			return watch(ctx, s, &resourcev1.ResourceClaim{}, deviceEvent[*resourcev1.ResourceClaim](s))
		},
		func() (func(), error) {
			return watch(ctx, s, &resourcev1.ResourceSlice{}, deviceEvent[*resourcev1.ResourceSlice](s))
		},
		func() (func(), error) {
			return watch(ctx, s, &resourcev1.DeviceClass{}, deviceEvent[*resourcev1.DeviceClass](s))
		},
	} {
		f, err := start()
		if err != nil {
			return stop, err
		}
		stops = append(stops, f)
	}
	return stop, nil
}

func deviceEvent[T crclient.Object](s *Scheduler) func(old, now T) {
	return func(_, _ T) { s.mu.queue.Wake(framework.Event{Kind: framework.DeviceChanged}) }
}
