package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/kubelet/cgroups"
	"skiff/internal/kubelet/images"
	"skiff/internal/kubelet/plan"
	"skiff/internal/kubelet/podspec"
	"skiff/internal/kubelet/runtime"
	"skiff/internal/kubelet/status"
)

// execute does the steps. Its error means that the rest has to be tried again
// later; containers fail independently of each other.
func (w *worker) execute(ctx context.Context, pod *v1.Pod, state *runtime.Pod, a plan.Actions) error {
	for _, kill := range a.Kill {
		if err := w.killForRestart(ctx, pod, state, kill); err != nil {
			return err
		}
	}
	for _, c := range a.Remove {
		if err := w.removeContainer(ctx, c); err != nil {
			return err
		}
	}
	if a.CreateSandbox {
		return w.createSandbox(ctx, pod, state, a)
	}
	if err := w.applyResizes(ctx, pod, state, a.Resize); err != nil {
		return err
	}
	if len(a.Start) == 0 {
		return nil
	}
	if err := w.mount(ctx, pod); err != nil {
		return err
	}
	if _, err := w.k.cgroups.EnsurePod(pod); err != nil {
		return err
	}
	var errs []error
	for _, s := range a.Start {
		if err := w.start(ctx, pod, state, s); err != nil {
			if ctx.Err() == nil {
				w.waiting[s.Container.Name] = waitingFor(err)
			}
			errs = append(errs, err)
			continue
		}
		delete(w.waiting, s.Container.Name)
	}
	return joined(errs)
}

// startError is a failure to start a container with the reason its status
// shows.
type startError struct {
	reason string
	err    error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

func waitingFor(err error) status.Waiting {
	var image *images.Error
	if errors.As(err, &image) {
		return status.Waiting{Reason: image.Reason, Message: image.Message}
	}
	var start *startError
	if errors.As(err, &start) {
		return status.Waiting{Reason: start.reason, Message: text(start.err)}
	}
	return status.Waiting{Reason: "CreateContainerError", Message: text(err)}
}

// text returns an error without gRPC's prefix.
func text(err error) string {
	if s, ok := grpcstatus.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// createSandbox replaces the pod's sandbox.
func (w *worker) createSandbox(ctx context.Context, pod *v1.Pod, state *runtime.Pod, a plan.Actions) error {
	k := w.k
	if a.SandboxChanged {
		k.recorder.Event(pod, v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	for _, s := range state.Sandboxes {
		if _, err := k.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.ID}); err != nil {
			return fmt.Errorf("stopping old sandbox: %w", err)
		}
	}
	if problem := k.state.network(); problem != "" && !pod.Spec.HostNetwork {
		k.recorder.Event(pod, v1.EventTypeWarning, "NetworkNotReady", "network is not ready: "+problem)
		return errors.New("network is not ready: " + problem)
	}
	if err := w.mount(ctx, pod); err != nil {
		return err
	}
	parent, err := k.cgroups.EnsurePod(pod)
	if err != nil {
		k.recorder.Event(pod, v1.EventTypeWarning, "FailedCreatePodContainer", "unable to ensure pod container exists: "+err.Error())
		return err
	}
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		const problem = "can't set `spec.hostUsers: false`, this node does not support user namespaces"
		k.recorder.Event(pod, v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+problem)
		return errors.New(problem)
	}
	config := w.sandboxConfig(pod, a.SandboxAttempt, parent)
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return fmt.Errorf("making log directory: %w", err)
	}
	handler := ""
	if pod.Spec.RuntimeClassName != nil {
		if handler, err = k.runtimeHandler(ctx, *pod.Spec.RuntimeClassName); err != nil {
			return err
		}
	}
	making, cancel := unbroken(ctx)
	defer cancel()
	if _, err := k.runtime.RunPodSandbox(making, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler}); err != nil {
		if ctx.Err() == nil {
			k.recorder.Event(pod, v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
		}
		return fmt.Errorf("creating sandbox: %w", err)
	}
	return nil
}

func (w *worker) sandboxConfig(pod *v1.Pod, attempt uint32, parent string) *cri.PodSandboxConfig {
	return podspec.Sandbox(pod, podspec.SandboxOptions{
		Attempt: attempt, CgroupParent: parent,
		LogDir:  podspec.LogDir(w.k.PodLogsDir, pod.Namespace, pod.Name, w.uid),
		Cluster: w.k.cluster,
	})
}

func (w *worker) seccompDir() string { return filepath.Join(w.k.RootDir, "seccomp") }

// start brings one container up.
func (w *worker) start(ctx context.Context, pod *v1.Pod, state *runtime.Pod, s plan.Start) error {
	k, c := w.k, s.Container
	sandbox := state.Ready()
	ref := containerReference(pod, c.Name)
	config := w.sandboxConfig(pod, sandbox.Attempt, cgroups.PodPath(k.CgroupRoot, pod))
	image, err := w.image(ctx, pod, c, ref, config)
	if err != nil {
		k.recorder.Event(ref, v1.EventTypeWarning, "Failed", "Error: "+waitingFor(err).Reason)
		return err
	}
	fail := func(reason string, err error) error {
		if ctx.Err() == nil {
			k.recorder.Event(ref, v1.EventTypeWarning, "Failed", "Error: "+text(err))
		}
		return &startError{reason, err}
	}
	mounted, err := w.mountedImages(ctx, pod, c, ref, config)
	if err != nil {
		k.recorder.Event(ref, v1.EventTypeWarning, "Failed", "Error: "+waitingFor(err).Reason)
		return err
	}
	container, err := w.containerConfig(ctx, pod, state, s, image, mounted)
	if err != nil {
		return fail("CreateContainerConfigError", err)
	}
	making, cancel := unbroken(ctx)
	defer cancel()
	created, err := k.runtime.CreateContainer(making, &cri.CreateContainerRequest{
		PodSandboxId: sandbox.ID, Config: container, SandboxConfig: config,
	})
	if err != nil {
		return fail("CreateContainerError", err)
	}
	k.recorder.Event(ref, v1.EventTypeNormal, "Created", "Container created")
	if last := state.Latest(c.Name); last != nil && last.State == runtime.Exited {
		w.backoff.Restarted(c.Name, last.FinishedAt, k.Clock.Now())
	}
	if _, err := k.runtime.StartContainer(making, &cri.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
		return fail("RunContainerError", err)
	}
	k.recorder.Event(ref, v1.EventTypeNormal, "Started", "Container started")
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	if err := k.runner.Hook(ctx, c.Lifecycle.PostStart, created.ContainerId, c, w.podIP(pod, state)); err != nil {
		k.recorder.Event(ref, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		if _, stopErr := k.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: created.ContainerId, Timeout: *grace(pod)}); stopErr != nil {
			k.log.Warn("stopping container after its postStart hook failed", "container", c.Name, "err", stopErr)
		}
		return &startError{"PostStartHookError", err}
	}
	return nil
}

// image makes sure that a container's image is on the node.
func (w *worker) image(ctx context.Context, pod *v1.Pod, c *v1.Container, ref *v1.ObjectReference, sandbox *cri.PodSandboxConfig) (images.Image, error) {
	image, retry, err := w.k.images.Ensure(ctx, images.Request{
		Pod: pod, Container: c, Reference: ref, Sandbox: sandbox, Secrets: w.pullSecrets(ctx, pod),
	})
	if err != nil && !retry.IsZero() {
		w.wakeAt(retry)
	}
	return image, err
}

// mountedImages makes sure that the images that the container mounts as volumes
// are on the node, and returns them by volume.
func (w *worker) mountedImages(ctx context.Context, pod *v1.Pod, c *v1.Container, ref *v1.ObjectReference, sandbox *cri.PodSandboxConfig) (map[string]*cri.ImageSpec, error) {
	var out map[string]*cri.ImageSpec
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		mounts := func(m v1.VolumeMount) bool { return m.Name == v.Name }
		if v.Image == nil || !slices.ContainsFunc(c.VolumeMounts, mounts) {
			continue
		}
		image, err := w.image(ctx, pod, &v1.Container{Name: c.Name, Image: v.Image.Reference, ImagePullPolicy: v.Image.PullPolicy}, ref, sandbox)
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = map[string]*cri.ImageSpec{}
		}
		out[v.Name] = &cri.ImageSpec{Image: image.Ref, UserSpecifiedImage: v.Image.Reference}
	}
	return out, nil
}

func (w *worker) containerConfig(ctx context.Context, pod *v1.Pod, state *runtime.Pod, s plan.Start, image images.Image, mounted map[string]*cri.ImageSpec) (*cri.ContainerConfig, error) {
	k, c := w.k, s.Container
	place := k.place(pod)
	sandbox := state.Ready()
	if !pod.Spec.HostNetwork {
		place.PodIPs = sandbox.IPs
	}
	services, err := k.services(ctx, pod)
	if err != nil {
		return nil, err
	}
	env, err := podspec.Env(ctx, pod, c, place, services, podSources{live{k.Client.Client}, w})
	if err != nil {
		return nil, err
	}
	hosts, err := w.hostsFile(pod, place.PodIPs)
	if err != nil {
		return nil, err
	}
	log, err := w.terminationLog(c)
	if err != nil {
		return nil, err
	}
	options := podspec.ContainerOptions{
		Attempt: s.Attempt, Life: s.Life, Env: env, ImageRef: image.Ref, User: image.User, Images: mounted,
		VolumePath: func(volume string) (string, error) { return k.volumes.Path(w.uid, volume) },
		SubPath: func(volume, path string, mount int) (string, error) {
			return k.volumes.SubPath(w.uid, c.Name, volume, path, mount)
		},
		HostsFile: hosts, TerminationLog: log, SeccompDir: w.seccompDir(),
		MemoryCapacity: k.machine.Memory, Unified: k.cgroups.Unified(),
	}
	if s.Target != "" {
		target := state.Latest(s.Target)
		if target == nil || target.State != runtime.Running {
			return nil, fmt.Errorf("unable to find target container %v", s.Target)
		}
		options.TargetID = target.ID
	}
	config, err := podspec.Container(pod, c, options)
	if err != nil {
		return nil, err
	}
	for _, d := range c.VolumeDevices {
		path, err := k.volumes.Path(w.uid, d.Name)
		if err != nil {
			return nil, err
		}
		config.Devices = append(config.Devices, &cri.Device{ContainerPath: d.DevicePath, HostPath: path, Permissions: "mrw"})
	}
	devices, err := k.dra.Devices(ctx, pod, c)
	if err != nil {
		return nil, err
	}
	for _, name := range devices {
		config.CDIDevices = append(config.CDIDevices, &cri.CDIDevice{Name: name})
	}
	return config, nil
}

// hostsFile writes the pod's /etc/hosts and returns where it is.
func (w *worker) hostsFile(pod *v1.Pod, ips []string) (string, error) {
	host := ""
	if pod.Spec.HostNetwork {
		b, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		host = string(b)
	}
	path := filepath.Join(w.k.volumes.PodDir(w.uid), "etc-hosts")
	content := podspec.HostsFile(pod, ips, w.k.ClusterDomain, host)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return "", fmt.Errorf("writing hosts file: %w", err)
	}
	return path, os.Chmod(path, 0o644)
}

// terminationLog makes the file that an instance of the container may leave
// its last words in.
func (w *worker) terminationLog(c *v1.Container) (string, error) {
	if c.TerminationMessagePath == "" {
		return "", nil
	}
	dir := filepath.Join(w.k.volumes.PodDir(w.uid), "containers", c.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	path := filepath.Join(dir, rand.String(8))
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return "", err
	}
	// Whoever the container runs as may write.
	return path, os.Chmod(path, 0o666)
}

// pullSecrets returns those of the pod's pull secrets that exist.
func (w *worker) pullSecrets(ctx context.Context, pod *v1.Pod) []*v1.Secret {
	var out []*v1.Secret
	for _, ref := range pod.Spec.ImagePullSecrets {
		s, err := live{w.k.Client.Client}.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			w.k.recorder.Event(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name))
			continue
		}
		out = append(out, s)
	}
	return out
}

// removeContainer removes a container that does not run, and its log.
func (w *worker) removeContainer(ctx context.Context, c *runtime.Container) error {
	if _, err := w.k.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
		return fmt.Errorf("removing container %s: %w", c.Name, err)
	}
	w.k.inspector.Forget(c.ID)
	if c.LogPath == "" {
		return nil
	}
	logs, err := filepath.Glob(c.LogPath + "*")
	if err != nil {
		return nil
	}
	for _, log := range logs {
		if err := os.Remove(log); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// collect removes the dead containers but the newest of each name, and dead
// sandboxes that hold no container.
func (w *worker) collect(ctx context.Context, pod *v1.Pod, state *runtime.Pod) {
	dead := map[string]bool{}
	used := map[string]bool{}
	for _, c := range state.Containers {
		if c.State == runtime.Exited && dead[c.Name] {
			if err := w.removeContainer(ctx, c); err != nil {
				w.k.log.Warn("removing dead container", "pod", pod.Name, "err", err)
			}
			continue
		}
		dead[c.Name] = dead[c.Name] || c.State == runtime.Exited
		used[c.SandboxID] = true
	}
	for i, s := range state.Sandboxes {
		if i == 0 || s.Ready || used[s.ID] {
			continue
		}
		if _, err := w.k.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.ID}); err != nil {
			w.k.log.Warn("removing dead sandbox", "pod", pod.Name, "err", err)
		}
	}
}

// makeTimeout is how long the runtime may take to make and start something.
const makeTimeout = 2 * time.Minute

// unbroken is the context of what a pod that ends meanwhile does not break off:
// a runtime that is told to give up a start may leave a process behind.
func unbroken(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), makeTimeout)
}

// stopTimeout is how much longer than a container's grace period the runtime
// may take to stop it.
const stopTimeout = 2 * time.Minute
