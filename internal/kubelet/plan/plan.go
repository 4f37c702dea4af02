// Package plan decides what has to be done to bring a pod's containers from
// what the runtime holds to what the spec asks for. It is a pure function of
// spec, runtime state, probe results, back-off and time: no calls, no clocks,
// no goroutines, so that all of a pod's life cycle is tested as tables.
//
// Each call looks at one moment and returns the next steps only. The caller
// does them, reads the runtime again and asks again, until nothing is left to
// do; Wake says when time alone changes the answer.
package plan

import (
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/internal/kubelet/runtime"
)

// Health is what a container's probes say of it.
type Health struct {
	// Started is true when the container has no startup probe, or it passed.
	Started bool
	// StartupFailed and LivenessFailed ask for a restart.
	StartupFailed, LivenessFailed bool
}

// Input is all that the decision depends on.
type Input struct {
	Pod     *v1.Pod
	Runtime *runtime.Pod
	// Health returns the health of a running container.
	Health func(containerID string) Health
	// Resized reports whether a running container has other cpu or memory than
	// the spec says; nil means that none has.
	Resized func(c *v1.Container, running *runtime.Container) (cpu, memory bool)
	Backoff *Backoff
	Now     time.Time
}

// Kind says which list of the pod's spec a container is in.
type Kind int

// The kinds of containers.
const (
	Regular Kind = iota
	Init
	Ephemeral
)

// Start is a container to be started. Attempt is its number, Life that of the
// pod's restarts.
type Start struct {
	Container *v1.Container
	Kind      Kind
	Attempt   uint32
	Life      int
	// Target is the container whose process namespace an ephemeral container
	// shares, if any.
	Target string
}

// Kill is a running container to be stopped.
type Kill struct {
	Container *runtime.Container
	// Message says why, in the words of the event; Reason is the cause for the
	// grace period: a failed probe may have its own.
	Message string
	Reason  KillReason
}

// Resize is a running container whose resources are to be changed.
type Resize struct {
	Container *v1.Container
	Running   *runtime.Container
}

// KillReason is why a container is stopped.
type KillReason int

// Reasons to stop a container.
const (
	Replaced KillReason = iota
	LivenessFailed
	StartupFailed
	Stranded
	// PodRestarts: all containers start anew, at once.
	PodRestarts
)

// Actions are the next steps.
type Actions struct {
	// CreateSandbox asks for a new sandbox; SandboxAttempt is its number.
	CreateSandbox  bool
	SandboxAttempt uint32
	// SandboxChanged is true when the new sandbox replaces one that died.
	SandboxChanged bool
	// Kill is done before Start.
	Kill  []Kill
	Start []Start
	// Resize are running containers whose resources change in place.
	Resize []Resize
	// Remove are containers that were created but never started.
	Remove []*runtime.Container
	// BackingOff names the containers whose restart waits, and until when.
	BackingOff map[string]time.Time
	// Finished is true when the pod's work is done (or has failed for good) and
	// everything that still runs has to stop.
	Finished bool
	// Wake is when time alone changes the decision; zero if it never does.
	Wake time.Time
}

// Idle reports whether there is nothing to do now.
func (a *Actions) Idle() bool {
	return !a.CreateSandbox && !a.Finished && len(a.Kill)+len(a.Start)+len(a.Resize)+len(a.Remove) == 0
}

// Next returns the next steps for a pod that is to run.
func Next(in Input) Actions {
	p := planner{Input: in, restart: RestartOf(in.Pod, in.Runtime)}
	p.BackingOff = map[string]time.Time{}
	sandbox := in.Runtime.Ready()
	if sandbox == nil {
		p.newSandbox()
		return p.Actions
	}
	p.sandbox = sandbox.ID
	for _, c := range in.Runtime.Alive() {
		if c.SandboxID != p.sandbox {
			p.kill(c, Stranded, "Stopping container "+c.Name)
		}
	}
	p.ephemeral()
	if p.past() && p.initContainers() {
		p.regular()
	}
	return p.Actions
}

type planner struct {
	Input
	Actions
	sandbox string
	restart Restart
}

// past plans the end of what runs from before all containers were restarted;
// true means that none does, and that they may start.
func (p *planner) past() bool {
	over := true
	for _, c := range p.Runtime.Alive() {
		if p.restart.Before(c) {
			over = false
			p.kill(c, PodRestarts, "Container "+c.Name+" will be restarted with the pod's other containers")
		}
	}
	return over
}

// newSandbox asks for a sandbox unless nothing of the pod is left to be run.
func (p *planner) newSandbox() {
	if len(p.Runtime.Containers) > 0 && !p.workLeft() {
		p.Finished = true
		return
	}
	for _, c := range p.Runtime.Alive() {
		p.kill(c, Stranded, "Stopping container "+c.Name)
	}
	if old := p.Runtime.Sandbox(); old != nil {
		p.SandboxAttempt = old.Attempt + 1
		p.SandboxChanged = true
	}
	p.CreateSandbox = true
}

// workLeft reports whether a regular container may still run after its sandbox
// is gone: one that must be restarted, or never ran and whose pod allows
// another try.
func (p *planner) workLeft() bool {
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		status := p.Runtime.Latest(c.Name)
		switch {
		case status != nil && p.restart.Before(status):
			return true
		case status == nil:
			if p.Pod.Spec.RestartPolicy != v1.RestartPolicyNever {
				return true
			}
		case status.State != runtime.Exited:
			if policyOf(p.Pod, c) != v1.RestartPolicyNever {
				return true
			}
		case ShouldRestart(p.Pod, c, status.ExitCode):
			return true
		}
	}
	return false
}

// current returns the newest instance of the container in the present sandbox,
// since all were restarted.
func (p *planner) current(name string) *runtime.Container {
	c := p.Runtime.Latest(name)
	if c == nil || c.SandboxID != p.sandbox || p.restart.Before(c) {
		return nil
	}
	return c
}

func (p *planner) attempt(name string) uint32 {
	if c := p.Runtime.Latest(name); c != nil {
		return c.Attempt + 1
	}
	return 0
}

func (p *planner) kill(c *runtime.Container, reason KillReason, message string) {
	for _, k := range p.Kill {
		if k.Container.ID == c.ID {
			return
		}
	}
	p.Actions.Kill = append(p.Actions.Kill, Kill{Container: c, Reason: reason, Message: message})
}

// start starts the container now, or notes that it must wait.
func (p *planner) start(c *v1.Container, kind Kind, target string) {
	if last := p.Runtime.Latest(c.Name); last != nil && last.State == runtime.Exited {
		if until := p.Backoff.Until(c.Name, last.FinishedAt, p.Now); until.After(p.Now) {
			p.BackingOff[c.Name] = until
			if p.Wake.IsZero() || until.Before(p.Wake) {
				p.Wake = until
			}
			return
		}
	}
	p.Start = append(p.Start, Start{Container: c, Kind: kind, Attempt: p.attempt(c.Name), Life: p.restart.life, Target: target})
}

func (p *planner) ephemeral() {
	for i := range p.Pod.Spec.EphemeralContainers {
		e := &p.Pod.Spec.EphemeralContainers[i]
		if p.Runtime.Latest(e.Name) == nil {
			c := v1.Container(e.EphemeralContainerCommon)
			p.Start = append(p.Start, Start{Container: &c, Kind: Ephemeral, Target: e.TargetContainerName})
		}
	}
}

// initContainers plans the init containers and sidecars; it returns true when
// the regular containers may run.
func (p *planner) initContainers() bool {
	initialized := p.initialized()
	for i := range p.Pod.Spec.InitContainers {
		c := &p.Pod.Spec.InitContainers[i]
		if IsSidecar(c) {
			if !p.sidecar(c) && !initialized {
				return false
			}
			continue
		}
		if !initialized && !p.initContainer(c) {
			return false
		}
	}
	return true
}

// initialized reports whether a regular container was ever made in this
// sandbox: then all init containers had passed.
func (p *planner) initialized() bool {
	for i := range p.Pod.Spec.Containers {
		if p.current(p.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// initContainer plans one init container; true means it has completed.
func (p *planner) initContainer(c *v1.Container) bool {
	status := p.current(c.Name)
	if status == nil {
		p.start(c, Init, "")
		return false
	}
	switch status.State {
	case runtime.Created:
		p.Remove = append(p.Remove, status)
	case runtime.Unknown:
		p.kill(status, Replaced, "Init container is in unknown state, try killing it before restart")
	case runtime.Exited:
		if status.ExitCode == 0 {
			return true
		}
		if !ShouldRestart(p.Pod, c, status.ExitCode) {
			p.Finished = true
			return false
		}
		p.start(c, Init, "")
	}
	return false
}

// sidecar plans a restartable init container; true means that the next
// container may start.
func (p *planner) sidecar(c *v1.Container) bool {
	status := p.current(c.Name)
	if status == nil {
		p.start(c, Init, "")
		return false
	}
	switch status.State {
	case runtime.Created:
		p.Remove = append(p.Remove, status)
	case runtime.Exited:
		p.start(c, Init, "")
	default:
		return p.running(c, status, "Init container ") && p.Health(status.ID).Started
	}
	return false
}

func (p *planner) regular() {
	pending, alive := false, false
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		status := p.current(c.Name)
		if status == nil {
			// One that ended for good in an earlier sandbox stays ended.
			if old := p.Runtime.Latest(c.Name); old != nil && old.State == runtime.Exited && !p.restart.Before(old) && !ShouldRestart(p.Pod, c, old.ExitCode) {
				continue
			}
			pending = true
			p.start(c, Regular, "")
			continue
		}
		switch status.State {
		case runtime.Created:
			pending = true
			p.Remove = append(p.Remove, status)
		case runtime.Exited:
			if ShouldRestart(p.Pod, c, status.ExitCode) {
				pending = true
				p.start(c, Regular, "")
			}
		default:
			alive = true
			p.running(c, status, "Container ")
		}
	}
	if !pending && !alive {
		p.Finished = true
		p.Start, p.Actions.Kill, p.Actions.Resize, p.Remove = nil, nil, nil, nil
		p.Wake = time.Time{}
	}
}

// running plans a container that runs; it returns false when the container has
// to stop.
func (p *planner) running(c *v1.Container, status *runtime.Container, subject string) bool {
	health := p.Health(status.ID)
	switch {
	case status.State == runtime.Unknown:
		p.kill(status, Replaced, subject+c.Name+" is in unknown state, try killing it before restart")
	case status.Hash != "" && status.Hash != runtime.HashContainer(c):
		p.kill(status, Replaced, subject+c.Name+" definition changed, will be restarted")
	case health.LivenessFailed:
		p.kill(status, LivenessFailed, subject+c.Name+" failed liveness probe, will be restarted")
	case health.StartupFailed:
		p.kill(status, StartupFailed, subject+c.Name+" failed startup probe, will be restarted")
	default:
		return p.resize(c, status, subject)
	}
	return false
}

// resize plans the change of a running container's resources; it returns false
// when the container has to stop for it.
func (p *planner) resize(c *v1.Container, status *runtime.Container, subject string) bool {
	if p.Resized == nil {
		return true
	}
	cpu, memory := p.Resized(c, status)
	// What is requested shows nowhere in a container that runs, and is of no
	// consequence for it, but that it may want to be restarted.
	request := status.MemoryRequest >= 0 && status.MemoryRequest != c.Resources.Requests.Memory().Value()
	switch {
	case cpu && restartsFor(c, v1.ResourceCPU) || (memory || request) && restartsFor(c, v1.ResourceMemory):
		p.kill(status, Replaced, subject+c.Name+" resize requires restart")
		return false
	case cpu || memory:
		p.Actions.Resize = append(p.Actions.Resize, Resize{Container: c, Running: status})
	}
	return true
}

// restartsFor reports whether the container wants to be restarted when the
// resource changes.
func restartsFor(c *v1.Container, name v1.ResourceName) bool {
	for _, policy := range c.ResizePolicy {
		if policy.ResourceName == name {
			return policy.RestartPolicy == v1.RestartContainer
		}
	}
	return false
}

// IsSidecar reports whether an init container is one that runs as long as the
// pod (KEP-753).
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

func policyOf(pod *v1.Pod, c *v1.Container) v1.RestartPolicy {
	if c.RestartPolicy != nil {
		return v1.RestartPolicy(*c.RestartPolicy)
	}
	return pod.Spec.RestartPolicy
}

// ShouldRestart reports whether a container that exited with code is started
// again, alone or with all others: by its own restart rules and policy
// (KEP-5307), else by the pod's. An init container that succeeded is never asked
// about.
func ShouldRestart(pod *v1.Pod, c *v1.Container, code int32) bool {
	if ruleFor(c, code) != nil {
		return true
	}
	switch policyOf(pod, c) {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return code != 0
	default:
		return true
	}
}

// ruleFor returns the first of the container's restart rules that the exit code
// matches, or nil.
func ruleFor(c *v1.Container, code int32) *v1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		if rule := &c.RestartPolicyRules[i]; matchesCode(rule.ExitCodes, code) {
			return rule
		}
	}
	return nil
}

func matchesCode(on *v1.ContainerRestartRuleOnExitCodes, code int32) bool {
	if on == nil {
		return false
	}
	found := false
	for _, v := range on.Values {
		found = found || v == code
	}
	return found == (on.Operator == v1.ContainerRestartRuleOnExitCodesOpIn)
}
