package kubelet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	labels "k8s.io/kubelet/pkg/types"

	"skiff/internal/kubelet/eviction"
	"skiff/internal/kubelet/images"
	"skiff/internal/kubelet/node"
	"skiff/internal/kubelet/podspec"
	"skiff/internal/kubelet/runtime"
)

// nodeReference names the node in events; upstream has its name for its UID.
func (k *Kubelet) nodeReference() *v1.ObjectReference {
	return &v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: k.NodeName, UID: types.UID(k.NodeName)}
}

// pressures returns what is scarce, for the node's conditions.
func (k *Kubelet) pressures() node.Pressure {
	conditions := k.eviction.Conditions()
	return node.Pressure{
		Memory: slices.Contains(conditions, v1.NodeMemoryPressure),
		Disk:   slices.Contains(conditions, v1.NodeDiskPressure),
		PID:    slices.Contains(conditions, v1.NodePIDPressure),
	}
}

// imageDir returns a directory on the images' file system, which the runtime
// knows; none until it has told.
func (k *Kubelet) imageDir() string {
	k.mu.Lock()
	dir := k.imageDirectory
	k.mu.Unlock()
	if dir != "" {
		return dir
	}
	info, err := k.runtime.ImageFsInfo(k.ctx, &cri.ImageFsInfoRequest{})
	if err != nil || len(info.ImageFilesystems) == 0 {
		return ""
	}
	dir = info.ImageFilesystems[0].GetFsId().GetMountpoint()
	k.mu.Lock()
	k.imageDirectory = dir
	k.mu.Unlock()
	return dir
}

// imageSpace returns the space of the images' file system.
func (k *Kubelet) imageSpace() (available, capacity int64, err error) {
	o, ok := eviction.Measure("", k.imageDir())[eviction.ImageFsAvailable]
	if !ok {
		return 0, 0, errors.New("the runtime does not say where images are")
	}
	return o.Available, o.Capacity, nil
}

// imagesInUse returns the IDs of the containers' images, and the names of those
// that pods mount.
func (k *Kubelet) imagesInUse(ctx context.Context) (map[string]bool, error) {
	list, err := k.runtime.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, c := range list.Containers {
		out[c.ImageRef], out[c.ImageId] = true, true
	}
	for _, pod := range k.active("") {
		for i := range pod.Spec.Volumes {
			if v := &pod.Spec.Volumes[i]; v.Image != nil {
				if name, err := images.FullName(v.Image.Reference); err == nil {
					out[name] = true
				}
			}
		}
	}
	delete(out, "")
	return out, nil
}

// scarce is the node as package eviction sees it.
type scarce struct{ *Kubelet }

// Measure implements eviction.Node.
func (s scarce) Measure() eviction.Observations { return eviction.Measure(s.RootDir, s.imageDir()) }

// Active implements eviction.Node.
func (s scarce) Active() []*v1.Pod { return s.active("") }

// Usage implements eviction.Node.
func (s scarce) Usage(ctx context.Context, pods []*v1.Pod) (map[types.UID]eviction.PodUsage, error) {
	containers, err := s.runtime.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("reading containers' statistics: %w", err)
	}
	sandboxes, err := s.runtime.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("reading sandboxes' statistics: %w", err)
	}
	out := map[types.UID]eviction.PodUsage{}
	for _, pod := range pods {
		u := eviction.PodUsage{Containers: map[string]eviction.Usage{}, EmptyDirs: map[string]int64{}}
		u.Disk, u.Inodes = eviction.DiskUsage(s.volumes.PodDir(string(pod.UID)))
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			if eviction.SizeLimit(v) == nil {
				continue
			}
			if path, err := s.volumes.Path(string(pod.UID), v.Name); err == nil {
				u.EmptyDirs[v.Name], _ = eviction.DiskUsage(path)
			}
		}
		out[pod.UID] = u
	}
	for _, c := range containers.Stats {
		attributes := c.GetAttributes()
		uid := types.UID(attributes.GetLabels()[labels.KubernetesPodUIDLabel])
		u, ok := out[uid]
		if !ok {
			continue
		}
		name := attributes.GetMetadata().GetName()
		logs := filepath.Join(podspec.LogDir(s.PodLogsDir, attributes.GetLabels()[labels.KubernetesPodNamespaceLabel], attributes.GetLabels()[labels.KubernetesPodNameLabel], string(uid)), name)
		disk, inodes := eviction.DiskUsage(logs)
		one := eviction.Usage{
			Memory: int64(c.GetMemory().GetWorkingSetBytes().GetValue()),
			Disk:   disk + int64(c.GetWritableLayer().GetUsedBytes().GetValue()),
			Inodes: inodes + int64(c.GetWritableLayer().GetInodesUsed().GetValue()),
		}
		u.Containers[name] = one
		u.Memory += one.Memory
		u.Disk += one.Disk
		u.Inodes += one.Inodes
		out[uid] = u
	}
	for _, sandbox := range sandboxes.Stats {
		uid := types.UID(sandbox.GetAttributes().GetMetadata().GetUid())
		if u, ok := out[uid]; ok {
			u.PIDs = int64(sandbox.GetLinux().GetProcess().GetProcessCount().GetValue())
			out[uid] = u
		}
	}
	return out, nil
}

// Reclaim implements eviction.Node: it removes the containers of pods that have
// ended, and then the images that nothing uses.
func (s scarce) Reclaim(ctx context.Context) error {
	var errs []error
	for _, w := range s.all() {
		pod := w.endedPod()
		if pod == nil {
			continue
		}
		state, err := s.inspector.Pod(ctx, w.uid, pod.Namespace, pod.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, c := range state.Containers {
			if c.State == runtime.Exited {
				errs = append(errs, w.removeContainer(ctx, c))
			}
		}
	}
	return errors.Join(append(errs, s.collector.Clear(ctx))...)
}

// Evict implements eviction.Node.
func (s scarce) Evict(ctx context.Context, pod *v1.Pod, message string) {
	s.mu.Lock()
	w := s.pods[string(pod.UID)]
	s.mu.Unlock()
	if w == nil {
		return
	}
	w.evict(message)
	select {
	case <-w.over:
	case <-ctx.Done():
	}
}
