package builtin

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"skiff/internal/apis"
)

// disabled are parts of pods that are dropped while their feature is off.
var disabled = []struct {
	gate string
	part func(*corev1.VolumeProjection) (there bool)
	drop func(*corev1.VolumeProjection)
}{
	{
		"ClusterTrustBundleProjection",
		func(s *corev1.VolumeProjection) bool { return s.ClusterTrustBundle != nil },
		func(s *corev1.VolumeProjection) { s.ClusterTrustBundle = nil },
	},
	{
		"PodCertificateRequest",
		func(s *corev1.VolumeProjection) bool { return s.PodCertificate != nil },
		func(s *corev1.VolumeProjection) { s.PodCertificate = nil },
	},
}

// dropDisabled lets the resource's pods have no part whose feature is off,
// unless they had it before.
func dropDisabled(r *apis.Resource, on func(gate string) bool) {
	if _, ok := podOf(r.Hub.New()); !ok {
		return
	}
	drop := func(obj, old apis.Object) {
		for _, d := range disabled {
			if on != nil && on(d.gate) {
				continue
			}
			there := false
			if old != nil {
				projections(old, func(s *corev1.VolumeProjection) { there = there || d.part(s) })
			}
			if !there {
				projections(obj, d.drop)
			}
		}
	}
	create, update := r.PrepareCreate, r.PrepareUpdate
	r.PrepareCreate = func(ctx context.Context, obj apis.Object) {
		if create != nil {
			create(ctx, obj)
		}
		drop(obj, nil)
	}
	r.PrepareUpdate = func(ctx context.Context, obj, old apis.Object) {
		if update != nil {
			update(ctx, obj, old)
		}
		drop(obj, old)
	}
}

func projections(obj apis.Object, do func(*corev1.VolumeProjection)) {
	s, _ := podOf(obj)
	if s == nil {
		return
	}
	for i := range s.Volumes {
		if p := s.Volumes[i].Projected; p != nil {
			for k := range p.Sources {
				do(&p.Sources[k])
			}
		}
	}
}

// podOf returns the specification of the pod that obj is or makes, nil if it
// has none now; ok tells whether its kind can have one.
func podOf(obj apis.Object) (spec *corev1.PodSpec, ok bool) {
	switch o := obj.(type) {
	case *corev1.Pod:
		return &o.Spec, true
	case *corev1.PodTemplate:
		return &o.Template.Spec, true
	case *corev1.ReplicationController:
		if o.Spec.Template == nil {
			return nil, true
		}
		return &o.Spec.Template.Spec, true
	case *appsv1.Deployment:
		return &o.Spec.Template.Spec, true
	case *appsv1.ReplicaSet:
		return &o.Spec.Template.Spec, true
	case *appsv1.DaemonSet:
		return &o.Spec.Template.Spec, true
	case *appsv1.StatefulSet:
		return &o.Spec.Template.Spec, true
	case *batchv1.Job:
		return &o.Spec.Template.Spec, true
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template.Spec, true
	}
	return nil, false
}
