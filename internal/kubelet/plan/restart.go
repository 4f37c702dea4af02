package plan

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"skiff/internal/kubelet/runtime"
)

// Restart tells which of a pod's containers are from before all were last
// restarted, because one ended with an exit code for which its rules say so
// (KEP-5532). It is read off what the runtime remembers: such an end is the end
// of a life of the pod, and each container knows in which life it was made.
type Restart struct {
	life  int
	names map[string]bool
}

// RestartOf returns the last restart of all of the pod's containers. The zero
// value, before which nothing was, is that of a pod that had none.
func RestartOf(pod *v1.Pod, state *runtime.Pod) Restart {
	var r Restart
	if state == nil {
		return r
	}
	for c := range restartable(pod) {
		for _, instance := range state.Containers {
			if instance.Name != c.Name {
				continue
			}
			r.life = max(r.life, instance.Life)
			if instance.State == runtime.Exited && restartsAll(ruleFor(c, instance.ExitCode)) {
				r.life = max(r.life, instance.Life+1)
			}
		}
	}
	// Most pods have none, and need no names.
	if r.life > 0 {
		r.names = map[string]bool{}
		for c := range restartable(pod) {
			r.names[c.Name] = true
		}
	}
	return r
}

// restartable are the containers that are restarted together.
func restartable(pod *v1.Pod) func(yield func(*v1.Container) bool) {
	return func(yield func(*v1.Container) bool) {
		for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// Before reports whether the container is from before the restart.
func (r Restart) Before(c *runtime.Container) bool { return c.Life < r.life && r.names[c.Name] }

// Pending reports whether there was a restart after which no container was made
// yet.
func (r Restart) Pending(state *runtime.Pod) bool {
	return r.life > 0 && !slices.ContainsFunc(state.Containers, func(c *runtime.Container) bool { return r.names[c.Name] && !r.Before(c) })
}

// CanRestartAll reports whether the pod has a rule that restarts all containers.
func CanRestartAll(pod *v1.Pod) bool {
	for c := range restartable(pod) {
		for i := range c.RestartPolicyRules {
			if restartsAll(&c.RestartPolicyRules[i]) {
				return true
			}
		}
	}
	return false
}

func restartsAll(rule *v1.ContainerRestartRule) bool {
	return rule != nil && rule.Action == v1.ContainerRestartRuleActionRestartAllContainers
}
