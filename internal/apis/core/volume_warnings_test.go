package core

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestVolumeWarnings(t *testing.T) {
	storage := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1500m")}
	volume := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{
		Capacity: storage, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRecycle,
		PersistentVolumeSource: corev1.PersistentVolumeSource{RBD: &corev1.RBDPersistentVolumeSource{}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "beta.kubernetes.io/os", Operator: "Exists"}},
		}}}},
	}}
	volume.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "x", corev1.MountOptionAnnotation: "ro"}
	for _, c := range []struct{ got, want []string }{
		{volumeWarnings(context.Background(), volume, nil), []string{
			`metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use "storageClassName" attribute instead`,
			`metadata.annotations[volume.beta.kubernetes.io/mount-options]: deprecated since v1.31; use "mountOptions" attribute instead`,
			"spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
			`spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use "kubernetes.io/os" instead`,
			"spec.rbd: deprecated in v1.28, non-functional in v1.31+",
		}},
		{claimWarnings(context.Background(), &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
			Resources: corev1.VolumeResourceRequirements{Limits: storage},
		}}, nil), []string{`spec.resources.limits[storage]: fractional byte value "1500m" is invalid, must be an integer`}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("warns\n%q, want\n%q", c.got, c.want)
		}
	}
}

func TestCellsOfAddresses(t *testing.T) {
	e := &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{NotReadyAddresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}}}}}
	if got := endpointsText(e); got != "" {
		t.Errorf("endpoints of which none is ready are shown as %q", got)
	}
	s := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ExternalIPs: []string{"10.9.9.9"}}}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "b.example.com"}, {IP: "10.0.0.2"}, {IP: "10.0.0.2"}}
	if got := serviceExternalIP(s); got != "10.0.0.2,b.example.com,10.9.9.9" {
		t.Errorf("external addresses are shown as %q", got)
	}
}
