// Package status computes the status of pods from what the runtime and the
// probes say, and writes it to the API server.
package status

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/kubelet/cgroups"
	"skiff/internal/kubelet/plan"
	"skiff/internal/kubelet/runtime"
)

// Waiting is why a container does not run.
type Waiting struct {
	Reason, Message string
}

// Probes says what the probes of a running container say.
type Probes interface {
	Started(c *v1.Container, containerID string) bool
	Ready(c *v1.Container, containerID string) bool
}

// Input is all that a pod's status depends on.
type Input struct {
	// Pod has the status that stands in the API.
	Pod         *v1.Pod
	Runtime     *runtime.Pod
	RuntimeName string
	Probes      Probes
	// Waiting says why containers do not run, by name.
	Waiting map[string]Waiting
	// Resize is why the node has not granted what the pod asks for;
	// ResizeProblem is why what was granted could not be set.
	Resize        *Waiting
	ResizeProblem string
	// Resized reports whether a running container has other cpu or memory than
	// it was granted.
	Resized func(c *v1.Container, running *runtime.Container) (cpu, memory bool)
	// PodResized is true when the pod as a whole has other cpu or memory than it
	// was granted.
	PodResized bool
	// Failed, when set, is why the node ends the pod on its own account: its
	// phase is Failed whatever its containers did.
	Failed *Waiting
	// Evicted is true when that is for want of something that the node has too
	// little of.
	Evicted bool
	// Terminating is true when all containers have been, or are being, stopped
	// for good; Terminated when none runs any more.
	Terminating, Terminated bool
	StartTime               time.Time
	HostIPs                 []netip.Addr
	Now                     time.Time
}

type generator struct {
	Input
	restart plan.Restart
}

// Generate returns the pod's status.
func Generate(in Input) v1.PodStatus {
	g := generator{in, plan.RestartOf(in.Pod, in.Runtime)}
	pod := in.Pod
	out := v1.PodStatus{
		ObservedGeneration:          pod.Generation,
		QOSClass:                    cgroups.QOS(pod),
		NominatedNodeName:           pod.Status.NominatedNodeName,
		Resize:                      pod.Status.Resize,
		ResourceClaimStatuses:       pod.Status.ResourceClaimStatuses,
		ExtendedResourceClaimStatus: pod.Status.ExtendedResourceClaimStatus,
	}
	if !in.StartTime.IsZero() {
		start := metav1.NewTime(in.StartTime).Rfc3339Copy()
		out.StartTime = &start
	}
	if pod.Status.StartTime != nil {
		out.StartTime = pod.Status.StartTime
	}
	initialized := g.initialized()
	for i := range pod.Spec.InitContainers {
		out.InitContainerStatuses = append(out.InitContainerStatuses, g.containerStatus(&pod.Spec.InitContainers[i], plan.Init))
	}
	for i := range pod.Spec.Containers {
		out.ContainerStatuses = append(out.ContainerStatuses, g.containerStatus(&pod.Spec.Containers[i], plan.Regular))
	}
	for i := range pod.Spec.EphemeralContainers {
		c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		out.EphemeralContainerStatuses = append(out.EphemeralContainerStatuses, g.containerStatus(&c, plan.Ephemeral))
	}
	g.addresses(&out)
	out.Phase = g.phase(&out)
	if in.Failed != nil {
		out.Phase, out.Reason, out.Message = v1.PodFailed, in.Failed.Reason, in.Failed.Message
	} else if Terminal(pod.Status.Phase) {
		out.Phase, out.Reason, out.Message = pod.Status.Phase, pod.Status.Reason, pod.Status.Message
	}
	g.podResources(&out)
	g.conditions(&out, initialized)
	if Terminal(out.Phase) && !in.Terminated && !Terminal(pod.Status.Phase) {
		// Who sees a pod's last phase may count on nothing of it running.
		out.Phase, out.Reason, out.Message = pod.Status.Phase, pod.Status.Reason, pod.Status.Message
		if out.Phase == "" {
			out.Phase = v1.PodPending
		}
	}
	return out
}

// Terminal reports whether a pod in the phase is over.
func Terminal(p v1.PodPhase) bool { return p == v1.PodSucceeded || p == v1.PodFailed }

// initialized reports whether all init containers have done their work, or
// were done with when a regular container started.
func (g *generator) initialized() bool {
	for i := range g.Pod.Spec.Containers {
		if g.Runtime.Latest(g.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	for i := range g.Pod.Spec.InitContainers {
		c := &g.Pod.Spec.InitContainers[i]
		last := g.Runtime.Latest(c.Name)
		if plan.IsSidecar(c) {
			if last == nil || last.State != runtime.Running || !g.Probes.Started(c, last.ID) {
				return false
			}
			continue
		}
		if last == nil || last.State != runtime.Exited || last.ExitCode != 0 || g.restart.Before(last) {
			return false
		}
	}
	return true
}

// addresses fills the pod's and the node's addresses. A pod in the host's
// network has the node's; one whose sandbox is gone keeps those it had.
func (g *generator) addresses(out *v1.PodStatus) {
	for _, ip := range g.HostIPs {
		out.HostIPs = append(out.HostIPs, v1.HostIP{IP: ip.String()})
	}
	if len(out.HostIPs) > 0 {
		out.HostIP = out.HostIPs[0].IP
	}
	var ips []string
	sandbox := g.Runtime.Sandbox()
	switch {
	case g.Pod.Spec.HostNetwork:
		if sandbox != nil || g.Pod.Status.PodIP != "" {
			for _, ip := range out.HostIPs {
				ips = append(ips, ip.IP)
			}
		}
	case sandbox != nil && sandbox.Ready:
		ips = sandbox.IPs
	}
	if len(ips) == 0 && (g.Terminating || g.Terminated) {
		out.PodIP, out.PodIPs = g.Pod.Status.PodIP, g.Pod.Status.PodIPs
		return
	}
	for _, ip := range ips {
		out.PodIPs = append(out.PodIPs, v1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		out.PodIP = ips[0]
	}
}

// phase sums the containers' states up (see "Pod Lifecycle: Pod phase").
func (g *generator) phase(out *v1.PodStatus) v1.PodPhase {
	pod := g.Pod
	initializing, initFailed := false, false
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		s := &out.InitContainerStatuses[i]
		if plan.IsSidecar(c) {
			initializing = initializing || s.State.Running == nil && s.State.Terminated == nil && s.LastTerminationState.Terminated == nil || s.Started == nil || !*s.Started && s.State.Running != nil
			continue
		}
		ended := s.State.Terminated
		switch {
		case ended == nil:
			initializing = true
		case ended.ExitCode != 0:
			initializing = true
			initFailed = initFailed || !plan.ShouldRestart(pod, c, ended.ExitCode)
		}
	}
	var running, waiting, stopped, succeeded, restarting int
	for i := range pod.Spec.Containers {
		s := &out.ContainerStatuses[i]
		switch {
		case s.State.Running != nil:
			running++
		case s.State.Terminated != nil:
			stopped++
			if s.State.Terminated.ExitCode == 0 {
				succeeded++
			}
			if plan.ShouldRestart(pod, &pod.Spec.Containers[i], s.State.Terminated.ExitCode) {
				restarting++
			}
		case s.LastTerminationState.Terminated != nil:
			stopped++
			restarting++
		default:
			waiting++
		}
	}
	switch {
	case initFailed:
		return v1.PodFailed
	case g.Terminated && running == 0 && pod.DeletionTimestamp != nil:
		// A pod that is deleted does not run again, whatever its policy.
		if waiting == 0 && stopped == succeeded {
			return v1.PodSucceeded
		}
		return v1.PodFailed
	case initializing && running+stopped == 0:
		return v1.PodPending
	case waiting > 0:
		return v1.PodPending
	case running > 0 || restarting > 0:
		return v1.PodRunning
	case stopped == succeeded:
		return v1.PodSucceeded
	default:
		return v1.PodFailed
	}
}

// owned reports whether the kubelet owns the condition; others are kept
// as they stand.
func owned(t v1.PodConditionType) bool {
	switch t {
	case v1.PodScheduled, v1.PodReadyToStartContainers, v1.PodInitialized, v1.ContainersReady, v1.PodReady, v1.PodResizePending, v1.PodResizeInProgress, v1.AllContainersRestarting:
		return true
	}
	return false
}

const (
	podCompleted       = "PodCompleted"
	containersNotReady = "ContainersNotReady"
	containersNotInit  = "ContainersNotInitialized"
	gatesNotReady      = "ReadinessGatesNotReady"
)

func (g *generator) conditions(out *v1.PodStatus, initialized bool) {
	for i := range g.Pod.Status.Conditions {
		if c := g.Pod.Status.Conditions[i]; !owned(c.Type) {
			out.Conditions = append(out.Conditions, c)
		}
	}
	g.set(out, v1.PodReadyToStartContainers, g.Runtime.Ready() != nil && !g.Terminated, "", "")
	g.set(out, v1.PodInitialized, initialized || out.Phase == v1.PodSucceeded, containersNotInit,
		fmt.Sprintf("containers with incomplete status: [%s]", unready(out.InitContainerStatuses)))
	if out.Phase == v1.PodSucceeded {
		g.setReason(out, v1.PodInitialized, podCompleted)
	}

	reason, message := containersNotReady, fmt.Sprintf("containers with unready status: [%s]", g.unreadyAll(out))
	ready := g.unreadyAll(out) == ""
	if Terminal(out.Phase) {
		ready, reason, message = false, "PodFailed", ""
		if out.Phase == v1.PodSucceeded {
			reason = podCompleted
		}
	}
	g.set(out, v1.ContainersReady, ready, reason, message)
	if ready {
		for _, gate := range g.Pod.Spec.ReadinessGates {
			c := find(out.Conditions, gate.ConditionType)
			switch {
			case c == nil:
				ready, reason, message = false, gatesNotReady, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType)
			case c.Status != v1.ConditionTrue:
				ready, reason, message = false, gatesNotReady, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, c.Status)
			}
		}
	}
	g.set(out, v1.PodReady, ready, reason, message)
	g.set(out, v1.PodScheduled, true, "", "")
	if plan.CanRestartAll(g.Pod) {
		g.restarting(out)
	}
	if !Terminal(out.Phase) {
		g.resizeConditions(out)
	}
	if g.Evicted {
		out.Conditions = slices.DeleteFunc(out.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.DisruptionTarget })
		g.set(out, v1.DisruptionTarget, true, "", "")
		c := &out.Conditions[len(out.Conditions)-1]
		c.Reason, c.Message = v1.PodReasonTerminationByKubelet, g.Failed.Message
	}
}

// restarting tells whether all containers are about to be started anew.
func (g *generator) restarting(out *v1.PodStatus) {
	reason := ""
	switch out.Phase {
	case v1.PodSucceeded:
		reason = podCompleted
	case v1.PodFailed:
		reason = "PodFailed"
	default:
		if g.restart.Pending(g.Runtime) {
			g.set(out, v1.AllContainersRestarting, true, "", "")
			c := &out.Conditions[len(out.Conditions)-1]
			c.Reason, c.Message = "RestartAllContainersStarted", "container exited with restart policy rule"
			return
		}
	}
	g.set(out, v1.AllContainersRestarting, false, reason, "")
}

// resizeConditions tell of a resize while there is one.
func (g *generator) resizeConditions(out *v1.PodStatus) {
	if r := g.Resize; r != nil {
		g.set(out, v1.PodResizePending, true, "", "")
		c := &out.Conditions[len(out.Conditions)-1]
		c.Reason, c.Message = r.Reason, r.Message
	}
	if g.resizing() || g.ResizeProblem != "" {
		g.set(out, v1.PodResizeInProgress, true, "", "")
		if g.ResizeProblem != "" {
			c := &out.Conditions[len(out.Conditions)-1]
			c.Reason, c.Message = v1.PodReasonError, g.ResizeProblem
		}
	}
}

// resizing reports whether the running pod or a running container does not have
// what it was granted.
func (g *generator) resizing() bool {
	if g.Resized == nil {
		return false
	}
	if g.PodResized && g.Pod.Status.Phase == v1.PodRunning {
		return true
	}
	for _, list := range [][]v1.Container{g.Pod.Spec.Containers, g.Pod.Spec.InitContainers} {
		for i := range list {
			last := g.Runtime.Latest(list[i].Name)
			if last == nil || last.State != runtime.Running {
				continue
			}
			if cpu, memory := g.Resized(&list[i], last); cpu || memory {
				return true
			}
		}
	}
	return false
}

// unreadyAll names the containers that must be ready for the pod to be: the
// regular ones and the sidecars.
func (g *generator) unreadyAll(out *v1.PodStatus) string {
	var statuses []v1.ContainerStatus
	for i := range g.Pod.Spec.InitContainers {
		if plan.IsSidecar(&g.Pod.Spec.InitContainers[i]) {
			statuses = append(statuses, out.InitContainerStatuses[i])
		}
	}
	return unready(append(statuses, out.ContainerStatuses...))
}

func find(list []v1.PodCondition, t v1.PodConditionType) *v1.PodCondition {
	i := slices.IndexFunc(list, func(c v1.PodCondition) bool { return c.Type == t })
	if i < 0 {
		return nil
	}
	return &list[i]
}

func (g *generator) setReason(out *v1.PodStatus, t v1.PodConditionType, reason string) {
	if c := find(out.Conditions, t); c != nil {
		c.Reason = reason
	}
}

// set adds a condition; its transition time moves only when its status does.
func (g *generator) set(out *v1.PodStatus, t v1.PodConditionType, ok bool, reason, message string) {
	c := v1.PodCondition{
		Type: t, Status: v1.ConditionTrue, ObservedGeneration: g.Pod.Generation,
		LastTransitionTime: metav1.NewTime(g.Now).Rfc3339Copy(),
	}
	if !ok {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, reason, message
	}
	if old := find(g.Pod.Status.Conditions, t); old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
		c.LastProbeTime = old.LastProbeTime
	}
	out.Conditions = append(out.Conditions, c)
}
