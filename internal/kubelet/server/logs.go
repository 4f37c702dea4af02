package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"

	"skiff/internal/kubelet/runtime"
)

func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	pod := s.Pods.Pod(r.PathValue("namespace"), r.PathValue("pod"))
	if pod == nil {
		http.Error(w, fmt.Sprintf("pod %q not found", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	options, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name := r.PathValue("container")
	state, err := s.Pods.Inspect(r.Context(), pod)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	c, err := logSource(pod, state, name, options.Previous)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Transfer-Encoding", "chunked")
	out := &flusher{w: w}
	if _, err := os.Stat(c.LogPath); errors.Is(err, fs.ErrNotExist) {
		// A container that wrote nothing, or whose log is gone.
		return
	}
	stdout, stderr := io.Writer(out), io.Writer(out)
	switch stream := r.URL.Query().Get("stream"); stream {
	case "", v1.LogStreamAll:
	case v1.LogStreamStdout:
		stderr = io.Discard
	case v1.LogStreamStderr:
		stdout = io.Discard
	}
	// A follower goes on until the container ends or the client goes away.
	err = logs.ReadLogs(r.Context(), c.LogPath, c.ID, readOptions(options, time.Now()), statusOnly{client: s.Runtime}, stdout, stderr)
	switch {
	case err == nil || r.Context().Err() != nil:
	case out.wrote:
		s.Log.Debug("reading container log", "container", name, "err", err)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// logSource finds the instance of the container whose log is asked for.
func logSource(pod *v1.Pod, state *runtime.Pod, name string, previous bool) (*runtime.Container, error) {
	if !hasContainer(pod, name) {
		return nil, fmt.Errorf("container %q not found in pod %q", name, pod.Name)
	}
	last := state.Latest(name)
	if previous {
		switch earlier := state.Previous(name); {
		case last != nil && last.State == runtime.Exited && waits(pod, name):
			return last, nil
		case earlier != nil:
			return earlier, nil
		}
		return nil, fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
	}
	if last == nil || last.State == runtime.Created {
		if reason := waitingReason(pod, name); reason != "" {
			return nil, fmt.Errorf("container %q in pod %q is waiting to start: %s", name, pod.Name, reason)
		}
		return nil, fmt.Errorf("container %q in pod %q is not available", name, pod.Name)
	}
	return last, nil
}

func hasContainer(pod *v1.Pod, name string) bool {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}

func waitingReason(pod *v1.Pod, name string) string {
	for _, list := range [][]v1.ContainerStatus{
		pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for i := range list {
			if list[i].Name == name && list[i].State.Waiting != nil {
				return list[i].State.Waiting.Reason
			}
		}
	}
	return ""
}

// waits reports whether the container waits to be started again.
func waits(pod *v1.Pod, name string) bool { return waitingReason(pod, name) != "" }

// logOptions reads the parameters of a request for logs; its errors are the
// requester's.
func logOptions(q url.Values) (*v1.PodLogOptions, error) {
	o := &v1.PodLogOptions{}
	var err error
	boolean := func(name string) bool {
		text := q.Get(name)
		if text == "" {
			return false
		}
		b, parseErr := strconv.ParseBool(text)
		if parseErr != nil {
			err = fmt.Errorf("invalid value %q of parameter %s: must be true or false", text, name)
		}
		return b
	}
	number := func(name string, least int64) *int64 {
		text := q.Get(name)
		if text == "" || text == "all" && name == "tailLines" {
			return nil
		}
		n, parseErr := strconv.ParseInt(text, 10, 64)
		if parseErr != nil || n < least {
			err = fmt.Errorf("invalid value %q of parameter %s: must be a number not less than %d", text, name, least)
		}
		return &n
	}
	o.Follow, o.Previous, o.Timestamps = boolean("follow"), boolean("previous"), boolean("timestamps")
	o.TailLines, o.LimitBytes, o.SinceSeconds = number("tailLines", 0), number("limitBytes", 1), number("sinceSeconds", 1)
	if text := q.Get("sinceTime"); text != "" {
		t, parseErr := time.Parse(time.RFC3339, text)
		if parseErr != nil {
			return nil, fmt.Errorf("invalid value %q of parameter sinceTime: must be a time as in RFC 3339", text)
		}
		o.SinceTime = &metav1.Time{Time: t}
	}
	if o.SinceTime != nil && o.SinceSeconds != nil {
		return nil, errors.New("at most one of sinceTime or sinceSeconds may be specified")
	}
	return o, err
}

// readOptions returns the options in the log reader's terms.
func readOptions(o *v1.PodLogOptions, now time.Time) *logs.LogOptions {
	out := &logs.LogOptions{TailLines: o.TailLines, LimitBytes: o.LimitBytes, Follow: o.Follow, Timestamp: o.Timestamps}
	switch {
	case o.SinceTime != nil:
		out.Since = o.SinceTime.Time
	case o.SinceSeconds != nil:
		out.Since = now.Add(-time.Duration(*o.SinceSeconds) * time.Second)
	}
	return out
}

// flusher passes on each line as it comes.
type flusher struct {
	w     http.ResponseWriter
	wrote bool
}

// Write implements io.Writer.
func (f *flusher) Write(p []byte) (int, error) {
	f.wrote = true
	n, err := f.w.Write(p)
	if fl, ok := f.w.(http.Flusher); ok {
		fl.Flush()
	}
	return n, err
}

// statusOnly is the one call that following a log needs of a runtime: whether
// the container still runs.
type statusOnly struct {
	internalapi.RuntimeService
	client cri.RuntimeServiceClient
}

// ContainerStatus implements internalapi.RuntimeService.
func (s statusOnly) ContainerStatus(ctx context.Context, id string, verbose bool) (*cri.ContainerStatusResponse, error) {
	return s.client.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
}
