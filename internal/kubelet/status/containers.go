package status

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helpers "k8s.io/component-helpers/resource"

	"skiff/internal/kubelet/cgroups"
	"skiff/internal/kubelet/plan"
	"skiff/internal/kubelet/runtime"
)

// Reasons of a container's state that are the kubelet's, not the runtime's.
const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonUnknown      = "ContainerStatusUnknown"
	reasonRestarting   = "RestartingAllContainers"
	messageRestarting  = "The container is removed because RestartAllContainers in place"
	messageUnknown     = "The container could not be located when the pod was terminated"
	exitCodeUnknown    = 137
)

// containerStatus returns the status of one container.
func (g *generator) containerStatus(c *v1.Container, kind plan.Kind) v1.ContainerStatus {
	out := v1.ContainerStatus{Name: c.Name, Image: c.Image}
	last := g.Runtime.Latest(c.Name)
	if last == nil {
		out.State.Waiting = g.waiting(c.Name)
		g.unlocated(&out)
		g.started(&out, c, kind, nil)
		return out
	}
	out.ContainerID = g.RuntimeName + "://" + last.ID
	out.Image = last.Image
	out.ImageID = last.ImageID
	out.RestartCount = int32(last.Attempt)
	if kind == plan.Ephemeral {
		out.RestartCount = 0
	}
	out.State = g.stateOf(last)
	if previous := g.Runtime.Previous(c.Name); previous != nil {
		out.LastTerminationState = g.stateOf(previous)
	} else if out.RestartCount > 0 {
		out.LastTerminationState = g.told(&out, kind)
	}
	past := g.restart.Before(last) && !g.Terminating
	if last.State == runtime.Exited {
		w, ok := g.Waiting[c.Name]
		if !ok && past {
			w, ok = Waiting{reasonRestarting, messageRestarting}, true
		}
		if ok && !g.Terminating {
			out.LastTerminationState = out.State
			out.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}}
		}
	}
	if last.State == runtime.Running {
		out.Resources = resourcesOf(c, last)
		out.AllocatedResources = c.Resources.Requests.DeepCopy()
		out.User = userOf(last)
	}
	out.VolumeMounts = mountsOf(c)
	g.unlocated(&out)
	if past && last.State == runtime.Exited {
		last = nil
	}
	g.started(&out, c, kind, last)
	return out
}

// told returns the last end of a container of which the runtime has forgotten the
// one before, as the API was told of it.
func (g *generator) told(now *v1.ContainerStatus, kind plan.Kind) v1.ContainerState {
	list := g.Pod.Status.ContainerStatuses
	if kind == plan.Init {
		list = g.Pod.Status.InitContainerStatuses
	}
	for i := range list {
		old := &list[i]
		switch {
		case old.Name != now.Name:
		case old.ContainerID == now.ContainerID:
			return old.LastTerminationState
		case old.State.Terminated != nil:
			return old.State
		}
	}
	return v1.ContainerState{}
}

// unlocated marks a container of a pod that has ended as lost, if nothing is
// known of its end.
func (g *generator) unlocated(out *v1.ContainerStatus) {
	if !g.Terminated || out.State.Terminated != nil {
		return
	}
	if out.State.Waiting != nil && out.ContainerID == "" {
		// It never started; it has nothing to report.
		return
	}
	out.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		Reason: reasonUnknown, Message: messageUnknown, ExitCode: exitCodeUnknown, ContainerID: out.ContainerID,
	}}
}

func (g *generator) waiting(name string) *v1.ContainerStateWaiting {
	if w, ok := g.Waiting[name]; ok {
		return &v1.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}
	}
	if len(g.Pod.Spec.InitContainers) > 0 {
		return &v1.ContainerStateWaiting{Reason: reasonInitializing}
	}
	return &v1.ContainerStateWaiting{Reason: reasonCreating}
}

// started fills Ready and Started, which depend on the probes.
func (g *generator) started(out *v1.ContainerStatus, c *v1.Container, kind plan.Kind, last *runtime.Container) {
	running := last != nil && last.State == runtime.Running
	started := false
	switch {
	case kind == plan.Regular || kind == plan.Init && plan.IsSidecar(c):
		started = running && g.Probes.Started(c, last.ID)
		out.Ready = started && g.Probes.Ready(c, last.ID) && !g.Terminated
	case kind == plan.Init:
		started = running
		out.Ready = last != nil && last.State == runtime.Exited && last.ExitCode == 0
	default:
		return
	}
	out.Started = &started
}

func (g *generator) stateOf(c *runtime.Container) v1.ContainerState {
	switch c.State {
	case runtime.Running:
		return v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt).Rfc3339Copy()}}
	case runtime.Exited:
		t := &v1.ContainerStateTerminated{
			ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message,
			FinishedAt:  metav1.NewTime(c.FinishedAt).Rfc3339Copy(),
			ContainerID: g.RuntimeName + "://" + c.ID,
		}
		if c.StartedAt.UnixNano() > 0 {
			t.StartedAt = metav1.NewTime(c.StartedAt).Rfc3339Copy()
		}
		return v1.ContainerState{Terminated: t}
	case runtime.Created:
		return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reasonCreating}}
	default:
		return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reasonUnknown}}
	}
}

// resourcesOf returns what the runtime has set for a container, in the terms
// of the spec: a value that the kernel's rounding makes no different is the
// spec's, and a container that asks for nothing is not told of what the pod's
// limits do to it.
func resourcesOf(c *v1.Container, last *runtime.Container) *v1.ResourceRequirements {
	out := c.Resources.DeepCopy()
	r := last.Resources
	if r == nil {
		return out
	}
	set := func(list v1.ResourceList, name v1.ResourceName, q *resource.Quantity) {
		if list != nil {
			list[name] = *q
		}
	}
	if limit := r.MemoryLimitInBytes; limit > 0 && out.Limits.Memory().Value() != limit {
		set(out.Limits, v1.ResourceMemory, resource.NewQuantity(limit, resource.BinarySI))
	}
	if quota := r.CpuQuota; quota > 0 && cgroups.Quota(out.Limits.Cpu().MilliValue()) != quota {
		set(out.Limits, v1.ResourceCPU, resource.NewMilliQuantity(cgroups.LimitedMilliCPU(quota, r.CpuPeriod), resource.DecimalSI))
	}
	request := out.Requests.Cpu()
	if request.IsZero() {
		request = c.Resources.Limits.Cpu()
	}
	if shares := r.CpuShares; shares > 0 && !request.IsZero() && cgroups.Shares(request.MilliValue()) != shares {
		set(out.Requests, v1.ResourceCPU, resource.NewMilliQuantity(cgroups.MilliCPU(shares), resource.DecimalSI))
	}
	return out
}

// podResources fills what the pod as a whole was granted and, once that is set,
// has (KEP-5419).
func (g *generator) podResources(out *v1.PodStatus) {
	requests := helpers.PodRequests(g.Pod, helpers.PodResourcesOptions{})
	out.AllocatedResources = requests
	has := &v1.ResourceRequirements{}
	if g.Pod.Spec.Resources != nil {
		has = g.Pod.Spec.Resources.DeepCopy()
	}
	switch {
	case out.Phase != v1.PodRunning:
		has.Requests, has.Limits = requests, helpers.PodLimits(g.Pod, helpers.PodResourcesOptions{})
	case g.PodResized && g.Pod.Status.Resources != nil:
		has = g.Pod.Status.Resources
	default:
		fill := func(list *v1.ResourceList, from v1.ResourceList) {
			for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
				if q, ok := from[name]; ok {
					if *list == nil {
						*list = v1.ResourceList{}
					}
					(*list)[name] = q
				}
			}
		}
		fill(&has.Requests, requests)
		fill(&has.Limits, cgroups.PodLimits(g.Pod))
	}
	out.Resources = has
}

func userOf(last *runtime.Container) *v1.ContainerUser {
	if last.User == nil {
		return nil
	}
	return &v1.ContainerUser{Linux: &v1.LinuxContainerUser{
		UID: last.User.Uid, GID: last.User.Gid, SupplementalGroups: last.User.SupplementalGroups,
	}}
}

func mountsOf(c *v1.Container) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil {
				mode = *m.RecursiveReadOnly
			}
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}

// unready names the containers among statuses that are not ready.
func unready(statuses []v1.ContainerStatus) string {
	var names []string
	for i := range statuses {
		if !statuses[i].Ready {
			names = append(names, statuses[i].Name)
		}
	}
	return strings.Join(names, " ")
}
