// Package noderesources puts pods where there is room for what they request,
// and prefers nodes that are used little and evenly.
package noderesources

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"skiff/internal/scheduler/framework"
)

const fitName = "NodeResourcesFit"

// Fit keeps pods off nodes without enough room, and prefers nodes as its
// strategy says.
type Fit struct {
	Strategy Strategy
	// Ignored are extended resources that are not looked at, and IgnoredGroups
	// what such resources' names begin with, up to the slash.
	Ignored, IgnoredGroups []string
	// Devices are those of drivers; nil means that there are none.
	Devices Devices
}

// Devices may stand for extended resources where the node itself has none.
type Devices interface {
	// Backs reports whether they do for the resource.
	Backs(resource corev1.ResourceName) bool
	// Census returns how many of them a node has, and how many of these are
	// taken; it is nil if no node has any.
	Census(resource corev1.ResourceName) func(node *corev1.Node) (have, taken int64)
}

// Name returns the plugin's name.
func (Fit) Name() string { return fitName }

// PreFilter makes the rule for pod.
func (f Fit) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	return f.rule(pod), nil
}

func (f Fit) rule(pod *framework.PodInfo) *fit {
	r := &fit{want: pod.Requests, known: map[string]*framework.Status{}}
	for name, want := range pod.Requests.Scalar {
		if want > 0 && !f.ignores(string(name)) {
			r.scalar = append(r.scalar, name)
			if f.Devices != nil && f.Devices.Backs(name) {
				r.backed = append(r.backed, name)
			}
		}
	}
	slices.Sort(r.scalar)
	return r
}

func (f Fit) ignores(name string) bool {
	group, _, qualified := strings.Cut(name, "/")
	if !qualified || strings.HasSuffix(group, "kubernetes.io") {
		return false
	}
	return slices.Contains(f.Ignored, name) || slices.Contains(f.IgnoredGroups, group)
}

type fit struct {
	want framework.Resources
	// scalar are the others that count.
	scalar []corev1.ResourceName
	// backed are those that drivers of devices may have.
	backed []corev1.ResourceName
	// known are the statuses given before, by which resources were short.
	known map[string]*framework.Status
}

func (f *fit) Filter(n *framework.NodeInfo) *framework.Status {
	var short []string
	unresolvable := false
	check := func(name string, want, used, have int64) {
		if want > 0 && want > have-used {
			short = append(short, "Insufficient "+name)
			unresolvable = unresolvable || want > have
		}
	}
	if n.Requested.Pods+1 > n.Allocatable.Pods {
		short = append(short, "Too many pods")
	}
	check("cpu", f.want.MilliCPU, n.Requested.MilliCPU, n.Allocatable.MilliCPU)
	check("memory", f.want.Memory, n.Requested.Memory, n.Allocatable.Memory)
	check("ephemeral-storage", f.want.EphemeralStorage, n.Requested.EphemeralStorage, n.Allocatable.EphemeralStorage)
	for _, name := range f.scalar {
		if n.Allocatable.Scalar[name] == 0 && slices.Contains(f.backed, name) {
			continue
		}
		check(string(name), f.want.Scalar[name], n.Requested.Scalar[name], n.Allocatable.Scalar[name])
	}
	if short == nil {
		return nil
	}
	return f.status(short, unresolvable)
}

func (f *fit) status(short []string, unresolvable bool) *framework.Status {
	key := ""
	code := framework.Unschedulable
	if unresolvable {
		// More than the whole node has: nobody's going would help.
		code, key = framework.Unresolvable, "!"
	}
	for _, reason := range short {
		key += reason + ","
	}
	s := f.known[key]
	if s == nil {
		s = framework.NewStatus(code, fitName, short...)
		f.known[key] = s
	}
	return s
}

// Cures reports whether there may be more room.
func (f Fit) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded:
		return f.fitsEmpty(pod, e.Node)
	case framework.NodeChanged:
		return grew(e.OldNode.Status.Allocatable, e.Node.Status.Allocatable) && f.fitsEmpty(pod, e.Node)
	case framework.PodGone:
		// Room on other nodes is as it was.
		return e.Host != nil && f.rule(pod).Filter(e.Host) == nil
	case framework.DeviceClassChanged:
		return len(pod.Requests.Scalar) > 0
	case framework.PodChanged:
		return shrank(&e.OldPod.Requests, &e.Pod.Requests)
	}
	return false
}

func (f Fit) fitsEmpty(pod *framework.PodInfo, node *corev1.Node) bool {
	var n framework.NodeInfo
	n.SetNode(node)
	return f.rule(pod).Filter(&n) == nil
}

func grew(old, now corev1.ResourceList) bool {
	for name, q := range now {
		if before, ok := old[name]; !ok || q.Cmp(before) > 0 {
			return true
		}
	}
	return false
}

func shrank(old, now *framework.Resources) bool {
	if now.MilliCPU < old.MilliCPU || now.Memory < old.Memory || now.EphemeralStorage < old.EphemeralStorage {
		return true
	}
	for name, v := range old.Scalar {
		if now.Scalar[name] < v {
			return true
		}
	}
	return false
}
