package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ClaimWarnings tells what is allowed in a claim, or in what claims are made
// from, but hardly meant.
func ClaimWarnings(spec *corev1.PersistentVolumeClaimSpec, at *field.Path) []string {
	var w warnings
	w.fraction(at.Child("resources", "requests"), spec.Resources.Requests)
	w.fraction(at.Child("resources", "limits"), spec.Resources.Limits)
	return w
}

func (w *warnings) fraction(at *field.Path, list corev1.ResourceList) {
	if q := list[corev1.ResourceStorage]; isFraction(q) {
		w.add(at.Key(string(corev1.ResourceStorage)), "fractional byte value %q is invalid, must be an integer", q.String())
	}
}

func isFraction(q resource.Quantity) bool { return q.MilliValue()%1000 != 0 }

func claimWarnings(_ context.Context, c, _ *corev1.PersistentVolumeClaim) []string {
	var w warnings
	w.oldStorageClass(c.Annotations)
	return append(w, ClaimWarnings(&c.Spec, field.NewPath("spec"))...)
}

func (w *warnings) oldStorageClass(annotations map[string]string) {
	if _, set := annotations[corev1.BetaStorageClassAnnotation]; set {
		w.add(field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation), `deprecated since v1.8; use "storageClassName" attribute instead`)
	}
}

func volumeWarnings(_ context.Context, v, _ *corev1.PersistentVolume) []string {
	var w warnings
	spec, at := &v.Spec, field.NewPath("spec")
	w.oldStorageClass(v.Annotations)
	if _, set := v.Annotations[corev1.MountOptionAnnotation]; set {
		w.add(field.NewPath("metadata", "annotations").Key(corev1.MountOptionAnnotation), `deprecated since v1.31; use "mountOptions" attribute instead`)
	}
	if spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		w.add(at.Child("persistentVolumeReclaimPolicy"), "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if spec.NodeAffinity != nil && spec.NodeAffinity.Required != nil {
		for i, term := range spec.NodeAffinity.Required.NodeSelectorTerms {
			w.nodeTerm(at.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i), term)
		}
	}
	for _, old := range []struct {
		name, since string
		set         bool
	}{
		{"cephfs", "deprecated in v1.28, non-functional in v1.31+", spec.CephFS != nil},
		{"photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+", spec.PhotonPersistentDisk != nil},
		{"scaleIO", "deprecated in v1.16, non-functional in v1.22+", spec.ScaleIO != nil},
		{"storageOS", "deprecated in v1.22, non-functional in v1.25+", spec.StorageOS != nil},
		{"glusterfs", "deprecated in v1.25, non-functional in v1.26+", spec.Glusterfs != nil},
		{"rbd", "deprecated in v1.28, non-functional in v1.31+", spec.RBD != nil},
	} {
		if old.set {
			w.add(at.Child(old.name), "%s", old.since)
		}
	}
	return w
}
