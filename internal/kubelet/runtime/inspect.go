package runtime

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/types"
)

// Limits of a termination message, in bytes and (with
// FallbackToLogsOnError) lines, as the Pod API documents them.
const (
	maxTerminationMessage    = 4096
	maxTerminationLog        = 2048
	maxTerminationLogLines   = 80
	reasonContainerCompleted = "Completed"
)

// Inspector reads pods' state from the runtime. An exited container never
// changes, so that its status is read once and kept until it is removed.
type Inspector struct {
	client *Client
	mu     struct {
		sync.Mutex
		exited map[string]*Container
	}
}

// NewInspector returns an Inspector over c.
func NewInspector(c *Client) *Inspector {
	i := &Inspector{client: c}
	i.mu.exited = map[string]*Container{}
	return i
}

// Pods lists the identities of all pods of which the runtime has a sandbox or
// a container; their Sandboxes and Containers are not filled.
func (i *Inspector) Pods(ctx context.Context) (map[string]*Pod, error) {
	sandboxes, err := i.client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing pod sandboxes: %w", err)
	}
	containers, err := i.client.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	pods := map[string]*Pod{}
	add := func(labels map[string]string) {
		if uid := labels[types.KubernetesPodUIDLabel]; uid != "" && pods[uid] == nil {
			pods[uid] = &Pod{UID: uid, Name: labels[types.KubernetesPodNameLabel], Namespace: labels[types.KubernetesPodNamespaceLabel]}
		}
	}
	for _, s := range sandboxes.Items {
		add(s.Labels)
	}
	for _, c := range containers.Containers {
		add(c.Labels)
	}
	return pods, nil
}

// Pod reads the state of one pod. A pod the runtime does not know is returned
// empty.
func (i *Inspector) Pod(ctx context.Context, uid, namespace, name string) (*Pod, error) {
	selector := map[string]string{types.KubernetesPodUIDLabel: uid}
	pod := &Pod{UID: uid, Namespace: namespace, Name: name}
	sandboxes, err := i.client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("listing sandboxes of pod %s/%s: %w", namespace, name, err)
	}
	for _, s := range sandboxes.Items {
		sandbox, err := i.sandbox(ctx, s)
		if err != nil {
			return nil, err
		}
		if sandbox != nil {
			pod.Sandboxes = append(pod.Sandboxes, sandbox)
		}
	}
	containers, err := i.client.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("listing containers of pod %s/%s: %w", namespace, name, err)
	}
	for _, c := range containers.Containers {
		container, err := i.container(ctx, c)
		if err != nil {
			return nil, err
		}
		if container != nil {
			pod.Containers = append(pod.Containers, container)
		}
	}
	pod.sort()
	return pod, nil
}

func (i *Inspector) sandbox(ctx context.Context, s *cri.PodSandbox) (*Sandbox, error) {
	r, err := i.client.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: s.Id})
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading status of sandbox %s: %w", s.Id, err)
	}
	st := r.Status
	out := &Sandbox{
		ID:          st.Id,
		Attempt:     st.GetMetadata().GetAttempt(),
		Ready:       st.State == cri.PodSandboxState_SANDBOX_READY,
		CreatedAt:   time.Unix(0, st.CreatedAt),
		HostNetwork: st.GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE,
		Annotations: st.Annotations,
	}
	if ip := st.GetNetwork().GetIp(); ip != "" && !out.HostNetwork {
		out.IPs = append(out.IPs, ip)
		for _, more := range st.Network.AdditionalIps {
			out.IPs = append(out.IPs, more.Ip)
		}
	}
	return out, nil
}

func (i *Inspector) container(ctx context.Context, c *cri.Container) (*Container, error) {
	if c.State == cri.ContainerState_CONTAINER_EXITED {
		i.mu.Lock()
		known := i.mu.exited[c.Id]
		i.mu.Unlock()
		if known != nil {
			return known, nil
		}
	}
	r, err := i.client.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.Id})
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading status of container %s: %w", c.Id, err)
	}
	out := convertContainer(c, r.Status)
	if out.State == Exited {
		out.Message = terminationMessage(r.Status)
		i.mu.Lock()
		i.mu.exited[c.Id] = out
		i.mu.Unlock()
	}
	return out, nil
}

// Forget drops what is kept of a removed container.
func (i *Inspector) Forget(containerID string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.mu.exited, containerID)
}

func convertContainer(c *cri.Container, st *cri.ContainerStatus) *Container {
	out := &Container{
		ID:          st.Id,
		SandboxID:   c.PodSandboxId,
		Name:        st.GetMetadata().GetName(),
		Attempt:     st.GetMetadata().GetAttempt(),
		Hash:        st.Annotations[annotationHash],
		CreatedAt:   time.Unix(0, st.CreatedAt),
		Image:       st.GetImage().GetImage(),
		ImageID:     st.ImageRef,
		LogPath:     st.LogPath,
		Resources:   st.GetResources().GetLinux(),
		User:        st.GetUser().GetLinux(),
		Mounts:      st.Mounts,
		Annotations: st.Annotations,
		StopSignal:  st.StopSignal,
	}
	if name := st.GetImage().GetUserSpecifiedImage(); name != "" {
		out.Image = name
	}
	out.MemoryRequest = -1
	if text, ok := st.Annotations[annotationMemoryRequest]; ok {
		out.MemoryRequest, _ = strconv.ParseInt(text, 10, 64)
	}
	out.Life, _ = strconv.Atoi(st.Annotations[annotationLife])
	out.GracePeriod, _ = strconv.ParseInt(st.Annotations[annotationGracePeriod], 10, 64)
	switch st.State {
	case cri.ContainerState_CONTAINER_CREATED:
		out.State = Created
	case cri.ContainerState_CONTAINER_RUNNING:
		out.State = Running
		out.StartedAt = time.Unix(0, st.StartedAt)
	case cri.ContainerState_CONTAINER_EXITED:
		out.State = Exited
		out.StartedAt = time.Unix(0, st.StartedAt)
		out.FinishedAt = time.Unix(0, st.FinishedAt)
		out.ExitCode = st.ExitCode
		out.Reason = st.Reason
		if out.Reason == "" {
			out.Reason = reasonContainerCompleted
			if st.ExitCode != 0 {
				out.Reason = "Error"
			}
		}
	default:
		out.State = Unknown
	}
	return out
}

// terminationMessage returns what the container left for its owner: its
// termination message file; else, with FallbackToLogsOnError and an exit code
// that is not 0, the end of its log; else the runtime's own message.
func terminationMessage(st *cri.ContainerStatus) string {
	if path := st.Annotations[annotationTerminationMessagePath]; path != "" {
		for _, m := range st.Mounts {
			if m.ContainerPath == path {
				if message := readTail(m.HostPath, maxTerminationMessage); message != "" {
					return message
				}
			}
		}
	}
	if st.ExitCode != 0 && st.Annotations[annotationTerminationPolicy] == string(v1.TerminationMessageFallbackToLogsOnError) {
		if message := logTail(st.LogPath); message != "" {
			return message
		}
	}
	return st.Message
}

// readTail returns at most the last n bytes of the file at path, or nothing
// where there is none.
func readTail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > n {
		if _, err := f.Seek(info.Size()-n, io.SeekStart); err != nil {
			return ""
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, n))
	if err != nil {
		return ""
	}
	return string(b)
}

// logTail returns the text of the last lines of a log in CRI's format. A line
// tagged P goes on in the next one.
func logTail(path string) string {
	lines := slices.Collect(strings.Lines(readTail(path, 4*maxTerminationLog)))
	lines = lines[max(0, len(lines)-maxTerminationLogLines):]
	var text strings.Builder
	for _, line := range lines {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) < 4 {
			continue
		}
		if fields[2] == "P" {
			fields[3] = strings.TrimSuffix(fields[3], "\n")
		}
		text.WriteString(fields[3])
	}
	s := text.String()
	if len(s) > maxTerminationLog {
		s = s[len(s)-maxTerminationLog:]
	}
	return s
}
