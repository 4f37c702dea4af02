package eviction

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"skiff/internal/kubelet/cgroups"
	"skiff/internal/kubelet/manifests"
)

// systemCritical is the priority from which pods keep the cluster itself going
// (upstream's SystemCriticalPriority).
const systemCritical = 2_000_000_000

// critical reports whether the pod stays whatever is scarce: one of the node's
// own manifests could not come back, and without others there is no cluster.
func critical(pod *v1.Pod) bool {
	return manifests.IsStatic(pod) || manifests.IsMirror(pod) || corev1.PodPriority(pod) >= systemCritical
}

// Refuse returns why a node under pressure does not take the pod, or nothing.
// Where memory alone is scarce, it takes the pods that ask for memory, and
// those that tolerate the taint.
func (m *Manager) Refuse(pod *v1.Pod) string {
	conditions := m.Conditions()
	if len(conditions) == 0 || critical(pod) {
		return ""
	}
	if len(conditions) == 1 && conditions[0] == v1.NodeMemoryPressure {
		taint := &v1.Taint{Key: v1.TaintNodeMemoryPressure, Effect: v1.TaintEffectNoSchedule}
		if cgroups.QOS(pod) != v1.PodQOSBestEffort || corev1.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, taint, false) {
			return ""
		}
	}
	return fmt.Sprintf("The node had condition: %v. ", conditions)
}
