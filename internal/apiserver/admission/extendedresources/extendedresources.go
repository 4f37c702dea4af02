// Package extendedresources lets pods that ask for an extended resource onto
// nodes that are tainted with its name, so that nodes with devices can be kept
// for those that need them (ExtendedResourceToleration).
package extendedresources

import (
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Mutator.
type Plugin struct{}

// Mutate implements admission.Mutator.
func (Plugin) Mutate(_ context.Context, a *admission.Attributes) error {
	if !a.Is("", "pods", "") || a.Operation != admission.Create && a.Operation != admission.Update {
		return nil
	}
	pod := a.Object.(*corev1.Pod)
	asked := map[string]bool{}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for name := range containers[i].Resources.Requests {
				if extended(string(name)) {
					asked[string(name)] = true
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		t := corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}
		if !slices.Contains(pod.Spec.Tolerations, t) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
		}
	}
	return nil
}

// extended tells names of resources that are not Kubernetes' own.
func extended(name string) bool {
	domain, _, qualified := strings.Cut(name, "/")
	return qualified && !strings.HasSuffix("."+domain, ".kubernetes.io") && !strings.HasPrefix(name, "requests.") &&
		len(utilvalidation.IsQualifiedName("requests."+name)) == 0
}
