package node

import (
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Facts is all that a node's status depends on.
type Facts struct {
	Machine  *Machine
	Name     string
	IPs      []netip.Addr
	MaxPods  int64
	Port     int32
	Version  string
	Pressure Pressure
	// Runtime is the name and version of the container runtime, for example
	// containerd://2.3.7; empty until known.
	Runtime string
	// NotReady says why the node is not ready, empty if it is.
	NotReady string
	Images   []v1.ContainerImage
	Handlers []v1.NodeRuntimeHandler
	Features *v1.NodeFeatures
	// VolumesInUse are the attachable volumes that must not be detached.
	VolumesInUse []v1.UniqueVolumeName
}

// podResize tells that the resources of a pod as a whole can be changed while
// it runs (KEP-5419).
const podResize = "InPlacePodLevelResourcesVerticalScaling"

// Capacity returns the node's capacity; all of it is allocatable.
func (f *Facts) Capacity() v1.ResourceList {
	out := f.Machine.Capacity.DeepCopy()
	out[v1.ResourcePods] = *resource.NewQuantity(f.MaxPods, resource.DecimalSI)
	return out
}

// Apply returns old with what the kubelet knows, at now. Extended resources,
// foreign conditions and addresses set by others stay.
func (f *Facts) Apply(old v1.NodeStatus, now time.Time) v1.NodeStatus {
	out := *old.DeepCopy()
	capacity := f.Capacity()
	if out.Capacity == nil {
		out.Capacity = v1.ResourceList{}
	}
	for name, q := range capacity {
		out.Capacity[name] = q
	}
	// All of it is allocatable, of extended resources too.
	out.Allocatable = out.Capacity.DeepCopy()
	out.NodeInfo = f.Machine.Info
	out.NodeInfo.KubeletVersion = f.Version
	out.NodeInfo.ContainerRuntimeVersion = f.Runtime
	out.DaemonEndpoints.KubeletEndpoint.Port = f.Port
	out.Images = f.Images
	out.RuntimeHandlers = f.Handlers
	out.Features = f.Features
	out.DeclaredFeatures = []string{podResize}
	out.VolumesInUse = f.VolumesInUse
	out.Addresses = f.addresses(old.Addresses)
	f.conditions(&out, now)
	return out
}

func (f *Facts) addresses(old []v1.NodeAddress) []v1.NodeAddress {
	var out []v1.NodeAddress
	for _, ip := range f.IPs {
		out = append(out, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip.String()})
	}
	out = append(out, v1.NodeAddress{Type: v1.NodeHostName, Address: f.Name})
	for _, a := range old {
		if a.Type != v1.NodeInternalIP && a.Type != v1.NodeHostName {
			out = append(out, a)
		}
	}
	return out
}

func (f *Facts) conditions(out *v1.NodeStatus, now time.Time) {
	pressure := func(t v1.NodeConditionType, is bool, good, goodText, bad, badText string) {
		c := v1.NodeCondition{Type: t, Status: v1.ConditionFalse, Reason: good, Message: goodText}
		if is {
			c = v1.NodeCondition{Type: t, Status: v1.ConditionTrue, Reason: bad, Message: badText}
		}
		setCondition(out, c, now)
	}
	pressure(v1.NodeMemoryPressure, f.Pressure.Memory,
		"KubeletHasSufficientMemory", "kubelet has sufficient memory available",
		"KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
	pressure(v1.NodeDiskPressure, f.Pressure.Disk,
		"KubeletHasNoDiskPressure", "kubelet has no disk pressure",
		"KubeletHasDiskPressure", "kubelet has disk pressure")
	pressure(v1.NodePIDPressure, f.Pressure.PID,
		"KubeletHasSufficientPID", "kubelet has sufficient PID available",
		"KubeletHasInsufficientPID", "kubelet has insufficient PID available")
	ready := v1.NodeCondition{
		Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status",
	}
	if f.NotReady != "" {
		ready.Status, ready.Reason, ready.Message = v1.ConditionFalse, "KubeletNotReady", f.NotReady
	}
	setCondition(out, ready, now)
}

func setCondition(out *v1.NodeStatus, c v1.NodeCondition, now time.Time) {
	c.LastHeartbeatTime = metav1.NewTime(now).Rfc3339Copy()
	c.LastTransitionTime = c.LastHeartbeatTime
	i := slices.IndexFunc(out.Conditions, func(o v1.NodeCondition) bool { return o.Type == c.Type })
	if i < 0 {
		out.Conditions = append(out.Conditions, c)
		return
	}
	if out.Conditions[i].Status == c.Status {
		c.LastTransitionTime = out.Conditions[i].LastTransitionTime
	}
	out.Conditions[i] = c
}

// changed reports whether a status differs in more than the time it was
// measured at.
func changed(old, new v1.NodeStatus) bool {
	strip := func(s v1.NodeStatus) v1.NodeStatus {
		s = *s.DeepCopy()
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
		return s
	}
	a, b := strip(old), strip(new)
	return !equal(a, b)
}
