package kubelet

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	v1 "k8s.io/api/core/v1"

	"skiff/internal/kubelet/runtime"
)

// Limits of upstream's defaults (containerLogMaxSize, containerLogMaxFiles)
// and how often sizes are looked at.
const (
	maxLogSize     = 10 << 20 // bytes
	maxLogFiles    = 5
	rotateInterval = 10 * time.Second
	rotatedFormat  = "20060102-150405"
)

// rotateLogs keeps the containers' logs within their limits until ctx ends.
func (k *Kubelet) rotateLogs(ctx context.Context) {
	ticker := k.Clock.NewTicker(rotateInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		logs, err := filepath.Glob(filepath.Join(k.PodLogsDir, "*", "*", "*.log"))
		if err != nil {
			continue
		}
		for _, path := range logs {
			if info, err := os.Stat(path); err != nil || info.Size() < maxLogSize {
				continue
			}
			if err := k.rotate(ctx, path); err != nil {
				k.log.Warn("rotating container log", "path", path, "err", err)
			}
		}
	}
}

// rotate starts a new log for the container that writes to path, if it runs.
func (k *Kubelet) rotate(ctx context.Context, path string) error {
	pod, name, attempt, ok := parseLogPath(path)
	if !ok {
		return nil
	}
	state, err := k.inspector.Pod(ctx, pod, "", "")
	if err != nil {
		return err
	}
	i := slices.IndexFunc(state.Containers, func(c *runtime.Container) bool {
		return c.Name == name && c.Attempt == attempt && c.State == runtime.Running
	})
	if i < 0 {
		return nil
	}
	rotated := path + "." + k.Clock.Now().UTC().Format(rotatedFormat)
	if err := os.Rename(path, rotated); err != nil {
		return err
	}
	if _, err := k.runtime.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: state.Containers[i].ID}); err != nil {
		// The runtime still writes to the old file: give it back its name.
		if back := os.Rename(rotated, path); back != nil {
			return joined([]error{err, back})
		}
		return err
	}
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old)
	for len(old) > maxLogFiles-1 {
		if err := os.Remove(old[0]); err != nil {
			return err
		}
		old = old[1:]
	}
	return nil
}

// parseLogPath takes <namespace>_<pod>_<uid>/<container>/<attempt>.log apart.
func parseLogPath(path string) (uid, container string, attempt uint32, ok bool) {
	dir, file := filepath.Split(path)
	n, err := strconv.ParseUint(strings.TrimSuffix(file, ".log"), 10, 32)
	if err != nil {
		return "", "", 0, false
	}
	dir = filepath.Clean(dir)
	parts := strings.Split(filepath.Base(filepath.Dir(dir)), "_")
	if len(parts) != 3 {
		return "", "", 0, false
	}
	return parts[2], filepath.Base(dir), uint32(n), true
}

// Inspect returns what the runtime has of a pod.
func (k *Kubelet) Inspect(ctx context.Context, pod *v1.Pod) (*runtime.Pod, error) {
	return k.inspector.Pod(ctx, string(pod.UID), pod.Namespace, pod.Name)
}
