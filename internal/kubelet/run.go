package kubelet

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"skiff/internal/kubelet/admit"
	"skiff/internal/kubelet/allocation"
	"skiff/internal/kubelet/cgroups"
	"skiff/internal/kubelet/eviction"
	"skiff/internal/kubelet/manifests"
	"skiff/internal/kubelet/plan"
	"skiff/internal/kubelet/probes"
	"skiff/internal/kubelet/references"
	"skiff/internal/kubelet/runtime"
	"skiff/internal/kubelet/status"
)

// adopt takes up what an earlier kubelet has done for the pod.
func (w *worker) adopt(pod *v1.Pod, state *runtime.Pod, removed bool) {
	if w.started.IsZero() {
		w.started = w.k.Clock.Now()
		if t := pod.Status.StartTime; t != nil {
			w.started = t.Time
		}
	}
	if !w.admitted && state.Sandbox() != nil {
		w.mu.Lock()
		w.admitted = true
		granted := allocation.Reported(pod)
		w.mu.granted = granted
		w.mu.Unlock()
		if len(state.Alive()) > 0 {
			if _, err := w.k.cgroups.EnsurePod(granted.Apply(pod)); err != nil {
				w.k.log.Warn("taking up a pod's cgroup", "pod", pod.Name, "err", err)
			}
		}
		if !removed {
			w.k.references.SetPod(w.uid, references.OfVolumes(pod))
		}
	}
}

// admit asks whether the node takes the pod.
func (w *worker) admit(pod *v1.Pod, state *runtime.Pod) *status.Waiting {
	node := w.k.node.Node()
	w.k.admitting.Lock()
	defer w.k.admitting.Unlock()
	if message := w.k.eviction.Refuse(pod); message != "" {
		return w.reject(pod, &admit.Rejection{Reason: eviction.Reason, Message: message})
	}
	if rejection := w.k.sysctls.Check(pod); rejection != nil {
		return w.reject(pod, rejection)
	}
	if rejection := admit.Check(pod, node, w.k.active(w.uid), klog.Logger{}); rejection != nil {
		return w.reject(pod, rejection)
	}
	w.mu.Lock()
	w.admitted = true
	w.mu.granted = allocation.Asked(pod)
	w.mu.Unlock()
	w.k.references.SetPod(w.uid, references.OfVolumes(pod))
	return nil
}

// reject notes that the node does not take the pod.
func (w *worker) reject(pod *v1.Pod, rejection *admit.Rejection) *status.Waiting {
	w.mu.Lock()
	w.mu.rejected = true
	w.mu.Unlock()
	w.k.recorder.Event(pod, v1.EventTypeWarning, rejection.Reason, rejection.Message)
	return &status.Waiting{Reason: rejection.Reason, Message: "Pod was rejected: " + rejection.Message}
}

// run takes the next steps of a pod that is to run.
func (w *worker) run(ctx context.Context, pod *v1.Pod, state *runtime.Pod) (again bool, err error) {
	k := w.k
	now := k.Clock.Now()
	if deadline, ok := w.deadline(pod); ok && !now.Before(deadline) {
		w.failed = &status.Waiting{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
		k.recorder.Event(pod, v1.EventTypeNormal, w.failed.Reason, w.failed.Message)
		return true, nil
	}
	k.probes.SetPod(w.uid, w.targets(pod, state, false))
	actions := plan.Next(plan.Input{Pod: pod, Runtime: state, Health: w.health(pod, state), Resized: w.resized(pod), Backoff: &w.backoff, Now: now})
	w.announceBackoff(pod, state, actions.BackingOff)
	w.report(pod, state, false, false)
	if actions.Finished {
		w.finished = true
		return true, nil
	}
	w.schedule(pod, actions.Wake)
	if actions.Idle() && !k.cgroups.Differs(pod) {
		return false, w.settle(ctx, pod, state)
	}
	if err := w.execute(ctx, pod, state, actions); err != nil {
		// What went wrong shows in the status.
		if after, stateErr := k.inspector.Pod(ctx, w.uid, pod.Namespace, pod.Name); stateErr == nil {
			w.report(w.grantedOf(k.newest(pod)), after, false, false)
		}
		return false, err
	}
	return true, nil
}

// deadline returns when the pod's active deadline passes.
func (w *worker) deadline(pod *v1.Pod) (time.Time, bool) {
	if pod.Spec.ActiveDeadlineSeconds == nil {
		return time.Time{}, false
	}
	return w.started.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second), true
}

// schedule wakes the pod when time alone has something to do for it.
func (w *worker) schedule(pod *v1.Pod, wake time.Time) {
	earliest := wake
	consider := func(t time.Time) {
		if !t.IsZero() && (earliest.IsZero() || t.Before(earliest)) {
			earliest = t
		}
	}
	if deadline, ok := w.deadline(pod); ok {
		consider(deadline)
	}
	consider(w.refresh)
	if earliest.IsZero() {
		w.k.wakes.Cancel(w.uid)
		return
	}
	w.wakeAt(earliest)
}

// settle does what can wait until the pod is as it should be: its volumes'
// content, and containers that are of no more use.
func (w *worker) settle(ctx context.Context, pod *v1.Pod, state *runtime.Pod) error {
	w.mu.Lock()
	dirty := w.mu.contentDirty
	w.mu.Unlock()
	due := !w.refresh.IsZero() && !w.k.Clock.Now().Before(w.refresh)
	if state.Ready() != nil && (dirty || due || !w.mounted) {
		if err := w.mount(ctx, pod); err != nil {
			return err
		}
		w.schedule(pod, time.Time{})
	}
	w.collect(ctx, pod, state)
	return nil
}

// mount makes the pod's volumes ready and current, and its devices.
func (w *worker) mount(ctx context.Context, pod *v1.Pod) error {
	w.mu.Lock()
	w.mu.contentDirty = false
	w.mu.Unlock()
	w.k.references.SetPod(w.uid, references.OfVolumes(pod))
	refresh, err := w.k.volumes.Mount(ctx, pod)
	reason, text := "FailedMount", ""
	if err != nil {
		text = err.Error()
	} else if err = w.k.dra.Prepare(ctx, pod); err != nil {
		reason, text = "FailedPrepareDynamicResources", "Failed to prepare dynamic resources: "+err.Error()
	}
	if err != nil {
		w.mu.Lock()
		w.mu.contentDirty = true
		w.mu.Unlock()
		if ctx.Err() == nil && (text != w.mountErr || w.failures%6 == 0) {
			w.mountErr = text
			w.k.recorder.Event(pod, v1.EventTypeWarning, reason, text)
		}
		return err
	}
	w.mountErr = ""
	w.refresh, w.mounted = refresh, true
	return nil
}

// health returns what the probes say, in the terms of the plan.
func (w *worker) health(pod *v1.Pod, state *runtime.Pod) func(string) plan.Health {
	return func(id string) plan.Health {
		for _, c := range state.Containers {
			if c.ID != id {
				continue
			}
			spec := containerSpec(pod, c.Name)
			if spec == nil {
				break
			}
			startup := w.k.probes.Result(spec, id, probes.Startup)
			return plan.Health{
				Started:        startup == probes.Success,
				StartupFailed:  startup == probes.Failure,
				LivenessFailed: w.k.probes.Result(spec, id, probes.Liveness) == probes.Failure,
			}
		}
		return plan.Health{Started: true}
	}
}

// targets returns the pod's running containers that may have probes.
func (w *worker) targets(pod *v1.Pod, state *runtime.Pod, stopping bool) []probes.Target {
	var out []probes.Target
	ip := w.podIP(pod, state)
	for _, c := range state.Containers {
		if c.State != runtime.Running {
			continue
		}
		spec := containerSpec(pod, c.Name)
		if spec == nil {
			continue
		}
		out = append(out, probes.Target{
			Pod: pod, Container: spec, ContainerID: c.ID, StartedAt: c.StartedAt, PodIP: ip,
			Reference: containerReference(pod, c.Name), Stopping: stopping,
		})
	}
	return out
}

func (w *worker) podIP(pod *v1.Pod, state *runtime.Pod) string {
	if pod.Spec.HostNetwork {
		return w.k.NodeIPs[0].String()
	}
	if s := state.Sandbox(); s != nil && len(s.IPs) > 0 {
		return s.IPs[0]
	}
	return ""
}

// containerSpec returns the container of any kind with this name, or nil.
func containerSpec(pod *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			c := v1.Container(e.EphemeralContainerCommon)
			return &c
		}
	}
	return nil
}

// containerReference names a container for events.
func containerReference(pod *v1.Pod, name string) *v1.ObjectReference {
	field := "containers"
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			field = "initContainers"
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			field = "ephemeralContainers"
		}
	}
	return &v1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID),
		ResourceVersion: pod.ResourceVersion, FieldPath: fmt.Sprintf("spec.%s{%s}", field, name),
	}
}

// announceBackoff tells, once each, of containers whose restart waits.
func (w *worker) announceBackoff(pod *v1.Pod, state *runtime.Pod, waits map[string]time.Time) {
	for name, until := range waits {
		w.waiting[name] = status.Waiting{
			Reason: "CrashLoopBackOff",
			Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s",
				w.backoff.Delay(name), name, format(pod)),
		}
		if w.announced[name] != until {
			w.announced[name] = until
			w.k.recorder.Event(containerReference(pod, name), v1.EventTypeWarning, "BackOff",
				fmt.Sprintf("Back-off restarting failed container %s in pod %s", name, format(pod)))
		}
	}
	maps.DeleteFunc(w.waiting, func(name string, s status.Waiting) bool {
		_, waits := waits[name]
		return s.Reason == "CrashLoopBackOff" && !waits
	})
}

// report hands the pod's status in.
func (w *worker) report(pod *v1.Pod, state *runtime.Pod, terminating, terminated bool) {
	object := pod
	if manifests.IsStatic(pod) {
		if object = w.k.static.mirror(pod); object == nil {
			return
		}
	}
	if w.isRejected() {
		w.k.writer.Set(object, v1.PodStatus{
			Phase: v1.PodFailed, Reason: w.failed.Reason, Message: w.failed.Message, QOSClass: cgroups.QOS(pod),
			StartTime: &metav1.Time{Time: w.started.Truncate(time.Second)}, Conditions: pod.Status.Conditions, ObservedGeneration: object.Generation,
		})
		return
	}
	name, _, _ := strings.Cut(w.k.state.runtimeName(), ":")
	w.k.writer.Set(object, status.Generate(status.Input{
		Pod: pod, Runtime: state, RuntimeName: name, Probes: w.k.probes, Waiting: w.waiting, Failed: w.failed, Evicted: w.evicting,
		Resize: w.pendingResize(), ResizeProblem: w.resizeErr, Resized: w.resized(pod), PodResized: w.k.cgroups.Differs(pod),
		Terminating: terminating, Terminated: terminated, StartTime: w.started, HostIPs: w.k.NodeIPs, Now: w.k.Clock.Now(),
	}))
}
