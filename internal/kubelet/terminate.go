package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/kubelet/plan"
	"skiff/internal/kubelet/podspec"
	"skiff/internal/kubelet/runtime"
	"skiff/internal/kubelet/status"
)

// minGrace is the least time a container has between TERM and KILL, in
// seconds: even one that must go at once may end itself.
const minGrace = 2

// terminate takes the next steps of a pod that ends: its containers stop, then
// its sandbox, then all it has on the node goes; at last, if it was deleted, it
// leaves the API.
func (w *worker) terminate(ctx context.Context, pod *v1.Pod, state *runtime.Pod, removed bool) (again bool, err error) {
	k := w.k
	if w.stopBegan.IsZero() {
		w.stopBegan = k.Clock.Now()
	}
	k.wakes.Cancel(w.uid)
	k.probes.SetPod(w.uid, w.targets(pod, state, true))
	waves := plan.Waves(pod, state)
	if len(waves) > 0 {
		if !removed {
			w.report(pod, state, true, false)
		}
		return true, w.reportWhile(ctx, func() error { return w.killWave(ctx, pod, state, waves[0]) })
	}
	for _, s := range state.Sandboxes {
		if !s.Ready {
			continue
		}
		if _, err := k.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.ID}); err != nil {
			return false, fmt.Errorf("stopping sandbox: %w", err)
		}
		again = true
	}
	if again {
		return true, nil
	}
	// A pod that had ended before this kubelet started has its last status.
	reported := status.Terminal(pod.Status.Phase)
	if !removed && !reported {
		w.report(pod, state, true, true)
	}
	return false, w.clean(ctx, pod, state, removed)
}

// reportWhile has the containers stop and reports what becomes of them meanwhile:
// one that ends may say first that it is not ready any more, and one may end long
// before the others. stop only reads what is the sync's.
func (w *worker) reportWhile(ctx context.Context, stop func() error) error {
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for {
		select {
		case err := <-stopped:
			return err
		case <-w.kicked:
		}
		pod, removed := w.current()
		if removed {
			continue
		}
		// A state that cannot be read now shows with the next change, and that
		// nothing runs any more is told in the end.
		if state, err := w.k.inspector.Pod(ctx, w.uid, pod.Namespace, pod.Name); err == nil && len(state.Alive()) > 0 {
			w.report(w.grantedOf(pod), state, true, false)
		}
	}
}

// clean takes away what the pod has on the node. The containers of a pod that
// stays in the API stay too: their logs may be wanted.
func (w *worker) clean(ctx context.Context, pod *v1.Pod, state *runtime.Pod, removed bool) error {
	k := w.k
	k.probes.SetPod(w.uid, nil)
	k.references.SetPod(w.uid, nil)
	if err := errors.Join(k.volumes.Unmount(ctx, w.uid), k.dra.Unprepare(ctx, types.UID(w.uid)), k.cgroups.RemovePod(w.uid)); err != nil {
		return err
	}
	w.end()
	k.kickPending()
	if !removed && pod.DeletionTimestamp == nil {
		return nil
	}
	for _, c := range state.Containers {
		if err := w.removeContainer(ctx, c); err != nil {
			return err
		}
	}
	for _, s := range state.Sandboxes {
		if _, err := k.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.ID}); err != nil {
			return fmt.Errorf("removing sandbox: %w", err)
		}
	}
	if err := os.RemoveAll(podspec.LogDir(k.PodLogsDir, pod.Namespace, pod.Name, w.uid)); err != nil {
		return fmt.Errorf("removing logs: %w", err)
	}
	w.cleaned = true
	if removed {
		if err := k.removeMirror(ctx, pod); err != nil {
			return err
		}
		k.forget(w.uid)
		return nil
	}
	w.finish(pod)
	return nil
}

// finish removes the pod from the API; the event of that makes the kubelet
// forget it.
func (w *worker) finish(pod *v1.Pod) {
	if pod.DeletionTimestamp != nil {
		w.k.writer.Finish(w.k.writer.Base(pod))
	}
}

// killWave stops containers together.
func (w *worker) killWave(ctx context.Context, pod *v1.Pod, state *runtime.Pod, wave []*runtime.Container) error {
	seconds := w.grace(pod)
	if w.k.Clock.Now().After(w.stopBegan) {
		// Sidecars have what the containers before them have left.
		seconds -= int64(w.k.Clock.Now().Sub(w.stopBegan) / time.Second)
	}
	if containerSpec(pod, wave[0].Name) == nil {
		// An orphan: what its own kubelet had noted.
		seconds = wave[0].GracePeriod
	}
	errs := make([]error, len(wave))
	var stops sync.WaitGroup
	for i, c := range wave {
		stops.Add(1)
		go func() {
			defer stops.Done()
			errs[i] = w.stop(ctx, pod, state, c, max(seconds, 0), "Stopping container "+c.Name)
		}()
	}
	stops.Wait()
	return joined(errs)
}

// killForRestart stops a container that is to be replaced.
func (w *worker) killForRestart(ctx context.Context, pod *v1.Pod, state *runtime.Pod, kill plan.Kill) error {
	seconds := *grace(pod)
	if spec := containerSpec(pod, kill.Container.Name); spec != nil {
		var probe *v1.Probe
		switch kill.Reason {
		case plan.LivenessFailed:
			probe = spec.LivenessProbe
		case plan.StartupFailed:
			probe = spec.StartupProbe
		case plan.PodRestarts:
			seconds = 0
		}
		if probe != nil && probe.TerminationGracePeriodSeconds != nil {
			seconds = *probe.TerminationGracePeriodSeconds
		}
	}
	return w.stop(ctx, pod, state, kill.Container, seconds, kill.Message)
}

// stop runs the container's preStop hook and stops it, all within its grace
// period (but with minGrace for the stop itself).
func (w *worker) stop(ctx context.Context, pod *v1.Pod, state *runtime.Pod, c *runtime.Container, seconds int64, message string) error {
	k := w.k
	if pod.Name != "" {
		k.recorder.Event(containerReference(pod, c.Name), v1.EventTypeNormal, "Killing", message)
	}
	began := k.Clock.Now()
	spec := containerSpec(pod, c.Name)
	if spec != nil && spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil && seconds > 0 && c.State == runtime.Running {
		hook, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
		err := k.runner.Hook(hook, spec.Lifecycle.PreStop, c.ID, spec, w.podIP(pod, state))
		cancel()
		if err != nil && ctx.Err() == nil {
			k.recorder.Event(containerReference(pod, c.Name), v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
		}
		seconds -= int64(k.Clock.Since(began) / time.Second)
	}
	seconds = max(seconds, minGrace)
	stopping, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+stopTimeout)
	defer cancel()
	if _, err := k.runtime.StopContainer(stopping, &cri.StopContainerRequest{ContainerId: c.ID, Timeout: seconds}); err != nil {
		if ctx.Err() == nil && pod.Name != "" {
			k.recorder.Event(containerReference(pod, c.Name), v1.EventTypeWarning, "FailedKillPod", "error killing pod: "+text(err))
		}
		return fmt.Errorf("stopping container %s: %w", c.Name, err)
	}
	return nil
}

// runtimeHandler returns the runtime's handler of a runtime class.
func (k *Kubelet) runtimeHandler(ctx context.Context, class string) (string, error) {
	rc := &nodev1.RuntimeClass{}
	if err := k.Client.Client.Get(ctx, ctrl.ObjectKey{Name: class}, rc); err != nil {
		return "", fmt.Errorf("reading runtime class %s: %w", class, err)
	}
	return rc.Handler, nil
}
