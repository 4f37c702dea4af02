package kubelet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/kubelet/node"
	"skiff/internal/kubelet/runtime"
)

// runtimeState is whether the runtime works.
type runtimeState struct {
	changed func()
	mu      sync.Mutex
	// runtimeErr and networkErr say what is wrong, empty if nothing is.
	runtimeErr, networkErr string
	checked                bool
	name                   string // for example containerd://2.3.7
	handlers               []v1.NodeRuntimeHandler
	features               *v1.NodeFeatures
}

func (s *runtimeState) set(runtimeErr, networkErr string) {
	s.mu.Lock()
	changed := !s.checked || s.runtimeErr != runtimeErr || s.networkErr != networkErr
	s.checked, s.runtimeErr, s.networkErr = true, runtimeErr, networkErr
	s.mu.Unlock()
	if changed {
		s.changed()
	}
}

// problem returns why the node is not ready, or nothing.
func (s *runtimeState) problem() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var problems []string
	switch {
	case !s.checked:
		return "container runtime status check may not have completed yet"
	case s.runtimeErr != "":
		problems = append(problems, s.runtimeErr)
	}
	if s.networkErr != "" {
		problems = append(problems, s.networkErr)
	}
	if len(problems) > 1 {
		return "[" + strings.Join(problems, ", ") + "]"
	}
	return strings.Join(problems, "")
}

// network returns why pods with a network of their own cannot start.
func (s *runtimeState) network() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.networkErr
}

func (s *runtimeState) runtimeName() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name
}

// notReadyInterval is how often a runtime is asked again that says it is not
// ready: CRI has no event for becoming so.
const notReadyInterval = 500 * time.Millisecond

// followRuntime follows the runtime's events and state until ctx ends.
func (k *Kubelet) followRuntime(ctx context.Context) {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Add(1)
	go func() {
		defer parts.Done()
		for ctx.Err() == nil {
			k.checkRuntime(ctx)
			if k.state.problem() == "" {
				// The heartbeat looks again.
				return
			}
			select {
			case <-ctx.Done():
			case <-k.Clock.After(notReadyInterval):
			}
		}
	}()
	events := &runtime.Events{
		Client: k.runtime, Log: k.log, Clock: k.Clock,
		Connected: func(ctx context.Context) {
			k.checkRuntime(ctx)
			k.adoptOrphans(ctx)
			k.kickAll()
		},
		Disconnected: func(err error) { k.checkRuntime(ctx) },
		Changed:      k.kick,
	}
	events.Run(ctx)
}

// checkRuntime asks the runtime how it is.
func (k *Kubelet) checkRuntime(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if k.state.runtimeName() == "" {
		if v, err := k.runtime.Version(ctx, &cri.VersionRequest{}); err == nil {
			k.state.mu.Lock()
			k.state.name = v.RuntimeName + "://" + strings.TrimPrefix(v.RuntimeVersion, "v")
			k.state.mu.Unlock()
		}
	}
	r, err := k.runtime.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		k.state.set("container runtime is down: "+err.Error(), "")
		return
	}
	var runtimeErr, networkErr string
	for _, c := range r.GetStatus().GetConditions() {
		if c.Status {
			continue
		}
		text := fmt.Sprintf("%s=%t reason:%s message:%s", c.Type, c.Status, c.Reason, c.Message)
		switch c.Type {
		case "RuntimeReady":
			runtimeErr = "container runtime not ready: " + text
		case "NetworkReady":
			networkErr = "container runtime network not ready: " + text
		}
	}
	k.state.mu.Lock()
	k.state.handlers = handlersOf(r)
	if f := r.Features; f != nil {
		k.state.features = &v1.NodeFeatures{SupplementalGroupsPolicy: &f.SupplementalGroupsPolicy}
	}
	k.state.mu.Unlock()
	k.state.set(runtimeErr, networkErr)
}

func handlersOf(r *cri.StatusResponse) []v1.NodeRuntimeHandler {
	var out []v1.NodeRuntimeHandler
	for _, h := range r.RuntimeHandlers {
		handler := v1.NodeRuntimeHandler{Name: h.Name}
		if f := h.Features; f != nil {
			// Whatever the runtime can do, pods are given none by this kubelet.
			userNamespaces := false
			handler.Features = &v1.NodeRuntimeHandlerFeatures{
				RecursiveReadOnlyMounts: &f.RecursiveReadOnlyMounts, UserNamespaces: &userNamespaces,
			}
		}
		out = append(out, handler)
	}
	slices.SortFunc(out, func(a, b v1.NodeRuntimeHandler) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// maxImages is how many images the node's status lists, the largest first;
// maxNames how many names of each.
const (
	maxImages = 50
	maxNames  = 5
)

// facts gathers what the node's status is made of.
func (k *Kubelet) facts(ctx context.Context) node.Facts {
	k.state.mu.Lock()
	checked := k.state.checked
	k.state.mu.Unlock()
	if checked {
		k.checkRuntime(ctx)
	}
	k.state.mu.Lock()
	name, handlers, features := k.state.name, k.state.handlers, k.state.features
	k.state.mu.Unlock()
	f := node.Facts{
		Machine: k.machine, Name: k.NodeName, IPs: k.NodeIPs, MaxPods: int64(k.MaxPods), Port: int32(k.Port),
		Version: k.Version, Pressure: k.pressures(), NotReady: k.state.problem(),
		Runtime: name, Handlers: handlers, Features: features, VolumesInUse: k.csi.InUse(),
	}
	if name == "" {
		return f
	}
	if r, err := k.runtime.ListImages(ctx, &cri.ListImagesRequest{}); err == nil {
		f.Images = imagesOf(r.Images)
	}
	return f
}

func imagesOf(list []*cri.Image) []v1.ContainerImage {
	slices.SortFunc(list, func(a, b *cri.Image) int {
		if a.Size != b.Size {
			if a.Size > b.Size {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Id, b.Id)
	})
	var out []v1.ContainerImage
	for _, i := range list {
		names := append(slices.Clone(i.RepoDigests), i.RepoTags...)
		if len(names) == 0 || len(out) == maxImages {
			continue
		}
		if len(names) > maxNames {
			names = names[:maxNames]
		}
		out = append(out, v1.ContainerImage{Names: names, SizeBytes: int64(i.Size)})
	}
	return out
}
