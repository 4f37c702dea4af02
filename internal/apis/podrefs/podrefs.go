// Package podrefs finds the objects of its own namespace that a pod names.
package podrefs

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
)

// Kind is a kind of object that pods name.
type Kind string

// The kinds.
const (
	Secret    Kind = "Secret"
	ConfigMap Kind = "ConfigMap"
	Claim     Kind = "PersistentVolumeClaim"
)

// Of returns what the pod's containers of every kind and its volumes name, and
// its pull secrets.
func Of(pod *corev1.Pod) iter.Seq2[Kind, string] {
	return func(yield func(Kind, string) bool) {
		v := visitor{yield: yield}
		for _, ref := range pod.Spec.ImagePullSecrets {
			v.see(Secret, ref.Name)
		}
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				v.environment(list[i].Env, list[i].EnvFrom)
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			v.environment(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom)
		}
		for i := range pod.Spec.Volumes {
			v.volume(&pod.Spec.Volumes[i])
		}
	}
}

// Has reports whether the pod names an object of the kind.
func Has(pod *corev1.Pod, kind Kind) bool {
	for k := range Of(pod) {
		if k == kind {
			return true
		}
	}
	return false
}

// visitor yields until it is told to stop.
type visitor struct {
	yield   func(Kind, string) bool
	stopped bool
}

func (v *visitor) see(kind Kind, name string) {
	if name != "" && !v.stopped {
		v.stopped = !v.yield(kind, name)
	}
}

func (v *visitor) secret(ref *corev1.LocalObjectReference) {
	if ref != nil {
		v.see(Secret, ref.Name)
	}
}

func (v *visitor) environment(env []corev1.EnvVar, from []corev1.EnvFromSource) {
	for i := range env {
		if source := env[i].ValueFrom; source != nil && source.SecretKeyRef != nil {
			v.see(Secret, source.SecretKeyRef.Name)
		} else if source != nil && source.ConfigMapKeyRef != nil {
			v.see(ConfigMap, source.ConfigMapKeyRef.Name)
		}
	}
	for i := range from {
		if from[i].SecretRef != nil {
			v.see(Secret, from[i].SecretRef.Name)
		}
		if from[i].ConfigMapRef != nil {
			v.see(ConfigMap, from[i].ConfigMapRef.Name)
		}
	}
}

func (v *visitor) volume(volume *corev1.Volume) {
	switch s := &volume.VolumeSource; {
	case s.Secret != nil:
		v.see(Secret, s.Secret.SecretName)
	case s.ConfigMap != nil:
		v.see(ConfigMap, s.ConfigMap.Name)
	case s.PersistentVolumeClaim != nil:
		v.see(Claim, s.PersistentVolumeClaim.ClaimName)
	case s.CSI != nil:
		v.secret(s.CSI.NodePublishSecretRef)
	case s.AzureFile != nil:
		v.see(Secret, s.AzureFile.SecretName)
	case s.CephFS != nil:
		v.secret(s.CephFS.SecretRef)
	case s.Cinder != nil:
		v.secret(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		v.secret(s.FlexVolume.SecretRef)
	case s.RBD != nil:
		v.secret(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		v.secret(s.ScaleIO.SecretRef)
	case s.ISCSI != nil:
		v.secret(s.ISCSI.SecretRef)
	case s.StorageOS != nil:
		v.secret(s.StorageOS.SecretRef)
	case s.Projected != nil:
		for i := range s.Projected.Sources {
			source := &s.Projected.Sources[i]
			if source.Secret != nil {
				v.see(Secret, source.Secret.Name)
			}
			if source.ConfigMap != nil {
				v.see(ConfigMap, source.ConfigMap.Name)
			}
		}
	}
}
