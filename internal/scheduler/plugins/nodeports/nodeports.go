// Package nodeports keeps pods apart that want the same port of a node.
package nodeports

import (
	"slices"

	"skiff/internal/scheduler/framework"
)

const name = "NodePorts"

// Plugin keeps pods off nodes where their host ports are taken.
type Plugin struct{}

// Name returns the plugin's name.
func (Plugin) Name() string { return name }

// PreFilter makes the rule for pod.
func (Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	if len(pod.HostPorts) == 0 {
		return nil, nil
	}
	return &rule{pod.HostPorts, framework.NewStatus(framework.Unschedulable, name, "node(s) didn't have free ports for the requested pod ports")}, nil
}

type rule struct {
	ports []framework.HostPort
	taken *framework.Status
}

func (r *rule) Filter(n *framework.NodeInfo) *framework.Status {
	for _, want := range r.ports {
		if n.Ports[want] > 0 {
			return r.taken
		}
		for have := range n.Ports {
			if conflict(want, have) {
				return r.taken
			}
		}
	}
	return nil
}

func conflict(a, b framework.HostPort) bool {
	return a.Port == b.Port && a.Protocol == b.Protocol &&
		(a.IP == b.IP || a.IP == framework.AnyIP || b.IP == framework.AnyIP)
}

// Cures reports whether a port may be free now.
func (Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded:
		return true
	case framework.PodGone:
		return slices.ContainsFunc(e.OldPod.HostPorts, func(have framework.HostPort) bool {
			return slices.ContainsFunc(pod.HostPorts, func(want framework.HostPort) bool { return conflict(want, have) })
		})
	}
	return false
}
