package core

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestWarningsOfRarerPods(t *testing.T) {
	volume := func(s corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: s}} }
	}
	keys := func(paths ...string) (items []corev1.KeyToPath) {
		for _, path := range paths {
			items = append(items, corev1.KeyToPath{Key: "k", Path: path})
		}
		return items
	}
	named := corev1.LocalObjectReference{Name: "n"}
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   []string
	}{
		"nothing": {func(*corev1.Pod) {}, nil},
		"port names": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 80}, {Name: "web", ContainerPort: 81}}
		}, []string{`spec.containers[0].ports[1]: duplicate port name "web" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]`}},
		"affinity to nothing": {func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{
				PodAffinity:     &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: "k"}}},
				PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1}}},
			}
		}, []string{
			"spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod",
			"spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
		}},
		"node labels": {func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"node-role.kubernetes.io/master": ""} },
			[]string{`spec.nodeSelector[node-role.kubernetes.io/master]: use "node-role.kubernetes.io/control-plane" instead`}},
		"ephemeral claim": {volume(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
			Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1500m")}}},
		}}}), []string{`spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value "1500m" is invalid, must be an integer`}},
		"files apart": {volume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{Items: keys("a", "ab", "b/c", "b/d")}}), nil},
		"files of a config map": {volume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: named, Items: keys("a", "a/b/")}}),
			[]string{`volume "v" (ConfigMap "n"): overlapping paths: "a/b" with "a"`}},
		"files of a secret": {volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: keys("a", "a")}}),
			[]string{`volume "v" (Secret "s"): overlapping paths: "a" with "a"`}},
		"files of the pod": {volume(corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "a/b"}, {Path: "a"}}}}),
			[]string{`volume "v" (DownwardAPI): overlapping paths: "a" with "a/b"`}},
		"files of several sources": {volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}, {},
			{Secret: &corev1.SecretProjection{LocalObjectReference: named, Items: keys("token/x")}},
		}}}), []string{
			`volume "v" (Projected) has no sources provided`,
			`volume "v" (Projected): overlapping paths: "token/x" (Secret "n") with "token" (ServiceAccountToken)`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := podWarnings(context.Background(), aPod(c.change), nil)
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("warns\n%q, want\n%q", got, c.want)
			}
		})
	}
}
