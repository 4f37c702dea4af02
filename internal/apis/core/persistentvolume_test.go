package core

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func aVolume(change func(*corev1.PersistentVolumeSpec)) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"},
		Capacity:    corev1.ResourceList{"storage": resource.MustParse("1Gi")},
	}}
	change(&pv.Spec)
	return pv
}

// What upstream answers to volumes.
func TestPersistentVolumeCauses(t *testing.T) {
	nfs := &corev1.NFSVolumeSource{Server: "s", Path: "/"}
	flex := &corev1.FlexPersistentVolumeSource{Driver: "d"}
	for name, c := range map[string]struct {
		change func(*corev1.PersistentVolumeSpec)
		want   []string
	}{
		"flexVolume as a second source": {func(s *corev1.PersistentVolumeSpec) { s.NFS, s.FlexVolume = nfs, flex }, nil},
		"bad flexVolume as a second source": {func(s *corev1.PersistentVolumeSpec) { s.NFS, s.FlexVolume = nfs, &corev1.FlexPersistentVolumeSource{} },
			[]string{"spec.flexVolume.driver: Required value"}},
		"source after flexVolume": {func(s *corev1.PersistentVolumeSpec) {
			s.FlexVolume, s.CSI = flex, &corev1.CSIPersistentVolumeSource{}
		}, []string{"spec.csi: Forbidden: may not specify more than 1 volume type"}},
		"no driver": {func(s *corev1.PersistentVolumeSpec) { s.CSI = &corev1.CSIPersistentVolumeSource{VolumeHandle: "h"} },
			[]string{"spec.csi.driver: Required value"}},
		"iSCSI names": {func(s *corev1.PersistentVolumeSpec) {
			s.ISCSI = &corev1.ISCSIPersistentVolumeSource{TargetPortal: "p", IQN: "x", InitiatorName: ptr.To("y")}
		}, []string{
			`spec.iscsi.iqn: Invalid value: "x": must be valid format`,
			`spec.iscsi.initiatorname: Invalid value: "y": must be valid format`,
		}},
		"negative capacity": {func(s *corev1.PersistentVolumeSpec) {
			s.NFS, s.Capacity = nfs, corev1.ResourceList{"storage": resource.MustParse("-1")}
		}, []string{
			"spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
			`spec.capacity[storage]: Invalid value: "-1": must be greater than zero`,
		}},
	} {
		t.Run(name, func(t *testing.T) { check(t, validatePersistentVolume(aVolume(c.change)), c.want...) })
	}
}

// Only beta labels may become those of today.
func TestNodeAffinityOfVolumeStays(t *testing.T) {
	on := func(keys ...string) *corev1.PersistentVolume {
		return aVolume(func(s *corev1.PersistentVolumeSpec) {
			s.NFS = &corev1.NFSVolumeSource{Server: "s", Path: "/"}
			term := corev1.NodeSelectorTerm{}
			for _, key := range keys {
				term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: key, Operator: "Exists"})
			}
			s.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}}}
		})
	}
	for _, c := range []struct {
		was, now *corev1.PersistentVolume
		fine     bool
	}{
		{on("beta.kubernetes.io/os", "k"), on("kubernetes.io/os", "k"), true},
		{on("kubernetes.io/os"), on("beta.kubernetes.io/os"), false},
		{on("beta.kubernetes.io/os"), on("kubernetes.io/arch"), false},
		{on("k"), on("l"), false},
		{on("k"), on("k", "l"), false},
	} {
		if errs := validatePersistentVolumeUpdate(t.Context(), c.now, c.was); (len(errs) == 0) != c.fine {
			t.Errorf("%v to %v: %v", c.was.Spec.NodeAffinity, c.now.Spec.NodeAffinity, errs)
		}
	}
}

func TestPhaseTransitionTime(t *testing.T) {
	before, given := metav1.NewTime(time.Unix(1, 0)), metav1.NewTime(time.Unix(2, 0))
	r := persistentVolumes()
	for name, c := range map[string]struct {
		phase corev1.PersistentVolumePhase
		given *metav1.Time
		want  *metav1.Time // nil is now
	}{
		"same phase, left out":     {"Bound", nil, &before},
		"same phase, given":        {"Bound", &given, &given},
		"another phase, left out":  {"Released", nil, nil},
		"another phase, as it was": {"Released", &before, nil},
		"another phase, given":     {"Released", &given, &given},
	} {
		old := &corev1.PersistentVolume{Status: corev1.PersistentVolumeStatus{Phase: "Bound", LastPhaseTransitionTime: &before}}
		pv := &corev1.PersistentVolume{Status: corev1.PersistentVolumeStatus{Phase: c.phase, LastPhaseTransitionTime: c.given}}
		r.PrepareStatusUpdate(t.Context(), pv, old)
		got := pv.Status.LastPhaseTransitionTime
		if c.want != nil && !got.Equal(c.want) || c.want == nil && (got == nil || !given.Before(got)) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
