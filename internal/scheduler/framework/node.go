package framework

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// NodeInfo is a node with the pods on it, summed up.
type NodeInfo struct {
	// Node is nil if the node is gone or not yet known.
	Node *corev1.Node
	// Row is the node's place in tables that rules keep; those of gone nodes
	// are used again.
	Row  int
	Pods []*PodInfo
	// WithTerms are those of Pods that say something about other pods.
	WithTerms []*PodInfo
	// Nominated are pods for which room is being made here.
	Nominated                       []*PodInfo
	Requested, NonZero, Allocatable Resources
	Ports                           map[HostPort]int
	// Images are the sizes of the node's images in bytes, by name.
	Images map[string]int64
}

// SetNode takes in the node's own state.
func (n *NodeInfo) SetNode(node *corev1.Node) {
	n.Node = node
	n.Allocatable, n.Images = Resources{}, nil
	if node == nil {
		return
	}
	n.Allocatable = resourcesOf(node.Status.Allocatable)
	if len(node.Status.Images) > 0 {
		n.Images = make(map[string]int64, len(node.Status.Images))
		for i := range node.Status.Images {
			for _, name := range node.Status.Images[i].Names {
				n.Images[name] = node.Status.Images[i].SizeBytes
			}
		}
	}
}

// Add puts a pod on the node.
func (n *NodeInfo) Add(p *PodInfo) {
	n.Pods = append(n.Pods, p)
	if p.HasTerms() {
		n.WithTerms = append(n.WithTerms, p)
	}
	n.account(p, 1)
}

// Remove takes the pod with that UID off the node.
func (n *NodeInfo) Remove(uid types.UID) {
	i := slices.IndexFunc(n.Pods, func(p *PodInfo) bool { return p.UID == uid })
	if i < 0 {
		return
	}
	p := n.Pods[i]
	n.Pods = slices.Delete(n.Pods, i, i+1)
	if p.HasTerms() {
		n.WithTerms = slices.DeleteFunc(n.WithTerms, func(o *PodInfo) bool { return o.UID == uid })
	}
	n.account(p, -1)
}

// Replace takes a newer state of a pod that differs in nothing rules look at.
func (n *NodeInfo) Replace(p *PodInfo) {
	for _, pods := range [][]*PodInfo{n.Pods, n.WithTerms} {
		for i, o := range pods {
			if o.UID == p.UID {
				pods[i] = p
			}
		}
	}
}

func (n *NodeInfo) account(p *PodInfo, sign int) {
	n.Requested.add(&p.Requests, int64(sign))
	n.NonZero.add(&p.NonZero, int64(sign))
	for _, port := range p.HostPorts {
		if n.Ports == nil {
			n.Ports = make(map[HostPort]int)
		}
		if n.Ports[port] += sign; n.Ports[port] <= 0 {
			delete(n.Ports, port)
		}
	}
}

// Clone returns a copy to try things with.
func (n *NodeInfo) Clone() *NodeInfo {
	c := *n
	c.Pods, c.WithTerms, c.Nominated = slices.Clone(n.Pods), slices.Clone(n.WithTerms), slices.Clone(n.Nominated)
	c.Ports = maps.Clone(n.Ports)
	c.Requested.Scalar, c.NonZero.Scalar = maps.Clone(n.Requested.Scalar), maps.Clone(n.NonZero.Scalar)
	return &c
}
