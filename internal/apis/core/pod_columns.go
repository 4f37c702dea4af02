package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/apis/columns"
)

func podColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		columns.Name(),
		columns.String("Ready", "The aggregate readiness state of this pod for accepting traffic."),
		columns.String("Status", "The aggregate status of the containers in this pod."),
		columns.String("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
		columns.AgeColumn(),
		columns.Wide(columns.String("IP", corev1.PodStatus{}.SwaggerDoc()["podIP"])),
		columns.Wide(columns.String("Node", corev1.PodSpec{}.SwaggerDoc()["nodeName"])),
		columns.Wide(columns.String("Nominated Node", corev1.PodStatus{}.SwaggerDoc()["nominatedNodeName"])),
		columns.Wide(columns.String("Readiness Gates", corev1.PodSpec{}.SwaggerDoc()["readinessGates"])),
	}
}

func podCells(pod *corev1.Pod) []any {
	s := summarize(pod)
	restarts := fmt.Sprint(s.restarts)
	if s.restarts > 0 && !s.lastRestart.IsZero() {
		restarts = fmt.Sprintf("%d (%s ago)", s.restarts, columns.Age(s.lastRestart))
	}
	return []any{
		pod.Name, fmt.Sprintf("%d/%d", s.ready, s.total), s.reason, restarts, columns.Age(pod.CreationTimestamp),
		firstOf(podIP(pod), columns.None), firstOf(pod.Spec.NodeName, columns.None),
		firstOf(pod.Status.NominatedNodeName, columns.None), readinessGates(pod),
	}
}

func readinessGates(pod *corev1.Pod) string {
	if len(pod.Spec.ReadinessGates) == 0 {
		return columns.None
	}
	open := 0
	for _, gate := range pod.Spec.ReadinessGates {
		if hasCondition(pod, gate.ConditionType) {
			open++
		}
	}
	return fmt.Sprintf("%d/%d", open, len(pod.Spec.ReadinessGates))
}

// hasCondition tells whether a condition is there and true.
func hasCondition(pod *corev1.Pod, kind corev1.PodConditionType) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// podSummary is a pod's state in one line.
type podSummary struct {
	reason       string
	ready, total int
	restarts     int
	lastRestart  metav1.Time
}

// summarize finds what is most worth knowing: the first init container that is
// not done, else the first container that is not well, else the phase; and
// above all that the pod is being deleted.
func summarize(pod *corev1.Pod) podSummary {
	s := podSummary{reason: string(pod.Status.Phase), total: len(pod.Spec.Containers)}
	if pod.Status.Reason != "" {
		s.reason = pod.Status.Reason
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = corev1.PodReasonSchedulingGated
		}
	}
	sidecars := map[string]bool{}
	for i := range pod.Spec.InitContainers {
		if isSidecar(&pod.Spec.InitContainers[i]) {
			sidecars[pod.Spec.InitContainers[i].Name] = true
			s.total++
		}
	}
	ofSidecars, initializing := s.initialization(pod, sidecars)
	if !initializing || hasCondition(pod, corev1.PodInitialized) {
		// What the containers that are done once did is history.
		s.restarts, s.lastRestart = ofSidecars.restarts, ofSidecars.lastRestart
		s.containers(pod)
	}
	switch {
	case pod.DeletionTimestamp != nil && pod.Status.Reason == "NodeLost":
		s.reason = "Unknown"
	case pod.DeletionTimestamp != nil && !isFinished(pod):
		s.reason = "Terminating"
	}
	return s
}

func (s *podSummary) addRestarts(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && s.lastRestart.Before(&t.FinishedAt) {
		s.lastRestart = t.FinishedAt
	}
}

// initialization looks at init containers up to the first that is not done and
// tells whether there is one. It returns the restarts of sidecars apart.
func (s *podSummary) initialization(pod *corev1.Pod, sidecars map[string]bool) (ofSidecars podSummary, initializing bool) {
	for i := range pod.Status.InitContainerStatuses {
		c := &pod.Status.InitContainerStatuses[i]
		s.addRestarts(c)
		if sidecars[c.Name] {
			ofSidecars.addRestarts(c)
		}
		ended, waiting := c.State.Terminated, c.State.Waiting
		switch {
		case ended != nil && ended.ExitCode == 0:
			continue
		case sidecars[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
			continue
		case ended != nil:
			s.reason = "Init:" + endText(ended)
		case waiting != nil && waiting.Reason != "" && waiting.Reason != "PodInitializing":
			s.reason = "Init:" + waiting.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(pod.Spec.InitContainers))
		}
		return ofSidecars, true
	}
	return ofSidecars, false
}

func endText(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func (s *podSummary) containers(pod *corev1.Pod) {
	running := false
	for i := len(pod.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &pod.Status.ContainerStatuses[i]
		s.addRestarts(c)
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.reason = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			s.reason = endText(c.State.Terminated)
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	// One that has completed says nothing while another still runs.
	if s.reason == "Completed" && running {
		s.reason = "NotReady"
		if hasCondition(pod, corev1.PodReady) {
			s.reason = "Running"
		}
	}
}
