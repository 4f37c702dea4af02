package statefulset

import (
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/controllers/pods"
)

// parent splits a pod's name into that of its set and its ordinal; the name is
// empty if it has no such form.
func parent(p *corev1.Pod) (set string, ordinal int) {
	i := strings.LastIndexByte(p.Name, '-')
	if i <= 0 {
		return "", -1
	}
	n, err := strconv.ParseUint(p.Name[i+1:], 10, 31)
	if err != nil {
		return "", -1
	}
	return p.Name[:i], int(n)
}

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return fmt.Sprintf("%s-%d", set.Name, ordinal)
}

func start(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

func inRange(set *appsv1.StatefulSet, ordinal int) bool {
	return ordinal >= start(set) && ordinal < start(set)+int(ptr.Deref(set.Spec.Replicas, 1))
}

// newPod returns the pod of an ordinal, as the template of a revision has it.
func newPod(set *appsv1.StatefulSet, template *corev1.PodTemplateSpec, revision string, ordinal int) *corev1.Pod {
	p := pods.FromTemplate(template, set, metav1.NewControllerRef(set, kind))
	p.GenerateName, p.Name = "", podName(set, ordinal)
	identify(p, ordinal)
	p.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, set.Spec.ServiceName
	if templates := set.Spec.VolumeClaimTemplates; len(templates) > 0 {
		claimed := map[string]bool{}
		var volumes []corev1.Volume
		for i := range templates {
			claimed[templates[i].Name] = true
			volumes = append(volumes, corev1.Volume{Name: templates[i].Name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, &templates[i], ordinal)},
			}})
		}
		for _, v := range p.Spec.Volumes {
			if !claimed[v.Name] {
				volumes = append(volumes, v)
			}
		}
		p.Spec.Volumes = volumes
	}
	return p
}

// identify puts the labels of its ordinal on the pod; it reports whether the
// pod changed.
func identify(p *corev1.Pod, ordinal int) bool {
	if identified(p, ordinal) {
		return false
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.StatefulSetPodNameLabel] = p.Name
	p.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	return true
}

func identified(p *corev1.Pod, ordinal int) bool {
	return p.Labels[appsv1.StatefulSetPodNameLabel] == p.Name && p.Labels[appsv1.PodIndexLabel] == strconv.Itoa(ordinal)
}

// revisionOf is the name of the ControllerRevision that the pod is made from.
func revisionOf(p *corev1.Pod) string { return p.Labels[appsv1.ControllerRevisionHashLabelKey] }

// stored reports whether the pod is more than a plan.
func stored(p *corev1.Pod) bool { return p.UID != "" }

func runsReady(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning && pods.Ready(p) }
