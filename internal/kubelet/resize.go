package kubelet

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/kubelet/admit"
	"skiff/internal/kubelet/allocation"
	"skiff/internal/kubelet/cgroups"
	"skiff/internal/kubelet/plan"
	"skiff/internal/kubelet/runtime"
	"skiff/internal/kubelet/status"
	"skiff/internal/kubelet/volumes"
)

// resize grants the pod what it asks for, if the node can, and returns the pod
// as it was granted (KEP-1287). Everything below works with that.
func (w *worker) resize(pod *v1.Pod) *v1.Pod {
	granted := w.grantedOf(pod)
	if granted == pod || w.ending(pod, false) {
		w.setPending(pod, nil)
		return granted
	}
	k := w.k
	k.admitting.Lock()
	defer k.admitting.Unlock()
	if refusal := admit.Resize(pod, k.node.Node(), k.active(w.uid)); refusal != nil {
		w.setPending(pod, &status.Waiting{Reason: refusal.Reason, Message: refusal.Message})
		return granted
	}
	w.setPending(pod, nil)
	w.mu.Lock()
	w.mu.granted = allocation.Asked(pod)
	w.mu.contentDirty = w.mu.contentDirty || volumes.ShowPod(pod)
	w.mu.Unlock()
	k.recorder.Event(pod, v1.EventTypeNormal, "ResizeStarted", "Pod resize started")
	// What became free may be enough for another.
	k.kickPending()
	return pod
}

// grantedOf returns pod with the resources that the node has granted it.
func (w *worker) grantedOf(pod *v1.Pod) *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.granted.Apply(pod)
}

func (w *worker) pendingResize() *status.Waiting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.pending
}

// setPending notes why a resize waits, and tells of a new reason.
func (w *worker) setPending(pod *v1.Pod, why *status.Waiting) {
	w.mu.Lock()
	old := w.mu.pending
	w.mu.pending = why
	w.mu.Unlock()
	if why != nil && (old == nil || *old != *why) {
		w.k.recorder.Event(pod, v1.EventTypeWarning, "Resize"+why.Reason, "Pod resize "+why.Reason+": "+why.Message)
	}
}

// kickPending lets pods whose resize waits try again.
func (k *Kubelet) kickPending() {
	k.mu.Lock()
	var waiting []*worker
	for _, w := range k.pods {
		if w.pendingResize() != nil {
			waiting = append(waiting, w)
		}
	}
	k.mu.Unlock()
	for _, w := range waiting {
		w.kick()
	}
}

// resized returns a function that tells running containers with other
// resources than pod says.
func (w *worker) resized(pod *v1.Pod) func(*v1.Container, *runtime.Container) (cpu, memory bool) {
	return func(c *v1.Container, running *runtime.Container) (cpu, memory bool) {
		return cgroups.Differ(w.resourcesFor(pod, c), running.Resources)
	}
}

func (w *worker) resourcesFor(pod *v1.Pod, c *v1.Container) *cri.LinuxContainerResources {
	return cgroups.ContainerResources(pod, c, w.k.machine.Memory, w.k.cgroups.Unified())
}

// applyResizes changes the resources of running containers, and of the pod that
// they run in, in place.
func (w *worker) applyResizes(ctx context.Context, pod *v1.Pod, state *runtime.Pod, resizes []plan.Resize) error {
	if len(resizes) == 0 && !w.k.cgroups.Differs(pod) {
		return nil
	}
	err := w.podFits(ctx, pod, state)
	if err == nil {
		err = w.k.cgroups.ResizePod(pod, func() error {
			for _, r := range resizes {
				if err := w.applyResize(ctx, pod, r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		if text := err.Error(); text != w.resizeErr && ctx.Err() == nil {
			w.resizeErr = text
			w.k.recorder.Event(pod, v1.EventTypeWarning, "ResizeError", "Pod resize error: "+text)
		}
		return err
	}
	w.resizeErr = ""
	w.k.recorder.Event(pod, v1.EventTypeNormal, "ResizeCompleted", "Pod resize completed")
	return nil
}

// podFits refuses a memory limit of the pod's own that is below what its
// containers use: the kernel would end processes until what is left fits.
func (w *worker) podFits(ctx context.Context, pod *v1.Pod, state *runtime.Pod) error {
	if pod.Spec.Resources == nil {
		return nil
	}
	limit := pod.Spec.Resources.Limits.Memory().Value()
	if limit == 0 {
		return nil
	}
	var usage uint64
	for _, c := range state.Alive() {
		used, err := w.workingSet(ctx, c)
		if err != nil {
			return err
		}
		usage += used
	}
	if usage > uint64(limit) {
		return fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", limit, usage)
	}
	return nil
}

// workingSet returns how much memory the container uses, in bytes.
func (w *worker) workingSet(ctx context.Context, c *runtime.Container) (uint64, error) {
	used, err := w.k.runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: c.ID})
	if err != nil {
		return 0, fmt.Errorf("reading what container %s uses: %w", c.Name, err)
	}
	return used.GetStats().GetMemory().GetWorkingSetBytes().GetValue(), nil
}

func (w *worker) applyResize(ctx context.Context, pod *v1.Pod, r plan.Resize) error {
	want := w.resourcesFor(pod, r.Container)
	if limit := want.MemoryLimitInBytes; limit > 0 {
		// The kernel would end processes until what is left fits.
		usage, err := w.workingSet(ctx, r.Running)
		if err != nil {
			return err
		}
		if usage > uint64(limit) {
			return fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", r.Container.Name, limit, usage)
		}
	}
	if want.CpuQuota == 0 {
		want.CpuQuota = -1
	}
	if _, err := w.k.runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: r.Running.ID, Linux: want}); err != nil {
		return fmt.Errorf("changing the resources of container %s: %w", r.Container.Name, err)
	}
	return nil
}
