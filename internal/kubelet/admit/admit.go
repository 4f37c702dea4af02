// Package admit decides whether a node takes a pod that was bound to it. It
// repeats the checks of the scheduler that must hold even for pods that were
// bound by someone else or by mistake.
package admit

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// Rejection is why a node refuses a pod.
type Rejection struct {
	Reason, Message string
}

// Check returns nil if node takes pod beside the pods it has.
func Check(pod *v1.Pod, node *v1.Node, others []*v1.Pod, log klog.Logger) *Rejection {
	if name := pod.Spec.OS; name != nil && name.Name != v1.Linux {
		return &Rejection{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if r := resources(pod, node, others); r != nil {
		return r
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return &Rejection{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	if port, ok := conflict(pod, others); ok {
		return &Rejection{"NodePorts", fmt.Sprintf("Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports (%s)", port)}
	}
	noExecute := func(t *v1.Taint) bool { return t.Effect == v1.TaintEffectNoExecute }
	if _, found := corev1.FindMatchingUntoleratedTaint(log, node.Spec.Taints, pod.Spec.Tolerations, noExecute, false); found && !static(pod) {
		return &Rejection{"TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"}
	}
	return nil
}

// static reports whether the pod comes from the node itself: nothing evicts
// those.
func static(pod *v1.Pod) bool {
	source := pod.Annotations["kubernetes.io/config.source"]
	return source != "" && source != "api"
}

// Feasible returns nil if the node is large enough for what pod asks for, even
// if other pods hold it.
func Feasible(pod *v1.Pod, node *v1.Node) *Rejection {
	wanted := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		want, have := wanted[name], node.Status.Allocatable[name]
		if want.Cmp(have) > 0 {
			return &Rejection{v1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, amount(name, want), amount(name, have))}
		}
	}
	return nil
}

// Resize returns nil if the node can give pod what it asks for beside the pods
// it has.
func Resize(pod *v1.Pod, node *v1.Node, others []*v1.Pod) *Rejection {
	if r := Feasible(pod, node); r != nil {
		return r
	}
	if r := resources(pod, node, others); r != nil {
		return &Rejection{v1.PodReasonDeferred, r.Message}
	}
	return nil
}

func resources(pod *v1.Pod, node *v1.Node, others []*v1.Pod) *Rejection {
	allowed := node.Status.Allocatable.Pods()
	if int64(len(others)+1) > allowed.Value() {
		return insufficient("pods", "OutOfpods", 1, int64(len(others)), allowed.Value())
	}
	wanted := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	used := v1.ResourceList{}
	for _, other := range others {
		for name, q := range helpers.PodRequests(other, helpers.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	names := make([]string, 0, len(wanted))
	for name := range wanted {
		names = append(names, string(name))
	}
	slices.Sort(names)
	for _, n := range names {
		name := v1.ResourceName(n)
		want := wanted[name]
		if want.IsZero() {
			continue
		}
		have, sum := node.Status.Allocatable[name], used[name]
		if _, known := node.Status.Allocatable[name]; !known && !native(name) {
			// An extended resource that its device plugin has not announced.
			return insufficient(n, "OutOf"+n, amount(name, want), amount(name, sum), 0)
		}
		total := sum.DeepCopy()
		total.Add(want)
		if total.Cmp(have) > 0 {
			return insufficient(n, "OutOf"+n, amount(name, want), amount(name, sum), amount(name, have))
		}
	}
	return nil
}

func native(name v1.ResourceName) bool {
	return !strings.Contains(string(name), "/")
}

func amount(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func insufficient(name, reason string, want, used, have int64) *Rejection {
	return &Rejection{reason, fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, want, used, have)}
}

// conflict returns a host port of pod that another pod has.
func conflict(pod *v1.Pod, others []*v1.Pod) (string, bool) {
	mine := hostPorts(pod)
	if len(mine) == 0 {
		return "", false
	}
	for _, other := range others {
		for _, theirs := range hostPorts(other) {
			for _, p := range mine {
				if p.HostPort == theirs.HostPort && protocol(p) == protocol(theirs) && overlaps(p.HostIP, theirs.HostIP) {
					return fmt.Sprintf("%s/%d", protocol(p), p.HostPort), true
				}
			}
		}
	}
	return "", false
}

func hostPorts(pod *v1.Pod) []v1.ContainerPort {
	var out []v1.ContainerPort
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				out = append(out, p)
			}
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return out
}

func protocol(p v1.ContainerPort) v1.Protocol {
	if p.Protocol == "" {
		return v1.ProtocolTCP
	}
	return p.Protocol
}

func overlaps(a, b string) bool {
	any := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	return a == b || any(a) || any(b)
}
