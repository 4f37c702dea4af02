// Package nodename holds pods to the node that they name.
package nodename

import "skiff/internal/scheduler/framework"

const name = "NodeName"

// Plugin holds pods to the node in spec.nodeName. Pods of the queue have none;
// the rule is for those who try a pod that has.
type Plugin struct{}

// Name returns the plugin's name.
func (Plugin) Name() string { return name }

// PreFilter makes the rule for pod.
func (Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	if pod.Spec.NodeName == "" {
		return nil, nil
	}
	return &rule{pod.Spec.NodeName, framework.NewStatus(framework.Unresolvable, name, "node(s) didn't match the requested node name")}, nil
}

type rule struct {
	node  string
	other *framework.Status
}

func (r *rule) Filter(n *framework.NodeInfo) *framework.Status {
	if n.Node.Name != r.node {
		return r.other
	}
	return nil
}

// Cures reports whether the named node appeared.
func (Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	return e.Kind == framework.NodeAdded && e.Node.Name == pod.Spec.NodeName
}
