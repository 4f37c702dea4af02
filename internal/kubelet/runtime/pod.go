package runtime

import (
	"slices"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// State is what a container does.
type State int

// The states of a container, as CRI has them.
const (
	Created State = iota
	Running
	Exited
	Unknown
)

// Container is one attempt of one container of a pod.
type Container struct {
	ID        string
	SandboxID string
	Name      string
	// Attempt counts the instances of this container in its pod from 0; it is
	// the restart count, and survives the kubelet in the runtime's metadata.
	Attempt uint32
	// Life counts how often all of the pod's containers had been restarted
	// together when this one was made (KEP-5532).
	Life int
	// Hash identifies the part of the container's spec that it was made from
	// and that needs a new container when it changes (see HashContainer).
	Hash       string
	State      State
	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	// Reason and Message are the runtime's words; Message is what the
	// container left in its termination message file, if anything.
	Reason      string
	Message     string
	Image       string
	ImageID     string
	LogPath     string
	GracePeriod int64
	Resources   *cri.LinuxContainerResources
	// MemoryRequest is what the container asked for when it was made, in bytes;
	// the runtime knows nothing of it. It is -1 if nobody has noted it.
	MemoryRequest int64
	User          *cri.LinuxContainerUser
	Mounts        []*cri.Mount
	Annotations   map[string]string
	StopSignal    cri.Signal
}

// Sandbox is one attempt of a pod's sandbox.
type Sandbox struct {
	ID        string
	Attempt   uint32
	Ready     bool
	CreatedAt time.Time
	// IPs are the pod's addresses; empty with host network.
	IPs         []string
	HostNetwork bool
	Annotations map[string]string
}

// Pod is what the runtime holds of one pod.
type Pod struct {
	UID, Name, Namespace string
	// Sandboxes and Containers are ordered newest first.
	Sandboxes  []*Sandbox
	Containers []*Container
}

// Sandbox returns the newest sandbox, or nil.
func (p *Pod) Sandbox() *Sandbox {
	if p == nil || len(p.Sandboxes) == 0 {
		return nil
	}
	return p.Sandboxes[0]
}

// Ready returns the newest sandbox if it is ready, else nil.
func (p *Pod) Ready() *Sandbox {
	if s := p.Sandbox(); s != nil && s.Ready {
		return s
	}
	return nil
}

// Latest returns the newest instance of the named container, or nil.
func (p *Pod) Latest(name string) *Container {
	if p == nil {
		return nil
	}
	for _, c := range p.Containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Previous returns the newest exited instance of the named container that is
// older than its latest, or nil.
func (p *Pod) Previous(name string) *Container {
	if p == nil {
		return nil
	}
	seen := false
	for _, c := range p.Containers {
		if c.Name != name {
			continue
		}
		if seen && c.State == Exited {
			return c
		}
		seen = true
	}
	return nil
}

// Alive returns the containers that run, or may run.
func (p *Pod) Alive() []*Container {
	var alive []*Container
	if p == nil {
		return nil
	}
	for _, c := range p.Containers {
		if c.State == Running || c.State == Unknown {
			alive = append(alive, c)
		}
	}
	return alive
}

func (p *Pod) sort() {
	slices.SortStableFunc(p.Sandboxes, func(a, b *Sandbox) int { return b.CreatedAt.Compare(a.CreatedAt) })
	slices.SortStableFunc(p.Containers, func(a, b *Container) int {
		if a.Name == b.Name && a.Attempt != b.Attempt {
			return int(b.Attempt) - int(a.Attempt)
		}
		return b.CreatedAt.Compare(a.CreatedAt)
	})
}
