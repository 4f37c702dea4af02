package class

import (
	"cmp"
	"fmt"
	"slices"

	"skiff/internal/scheduler/framework"
)

// Failures calls yield with every node and why the class does not fit there.
func (k *Class) Failures(yield func(n *framework.NodeInfo, why *framework.Status) bool) {
	for _, n := range k.cache.Rows()[:len(k.rows)] {
		if why := k.Why(n); why != nil && why != absent && !yield(n, why) {
			return
		}
	}
}

// Why returns why the class does not fit on n, or nil.
func (k *Class) Why(n *framework.NodeInfo) *framework.Status {
	if n.Row >= len(k.rows) {
		return absent
	}
	if g := k.rows[n.Row].group; g != nil {
		return g.why
	}
	return k.rows[n.Row].why
}

// Reasons returns why the class fits nowhere: on how many nodes for which
// reason.
func (k *Class) Reasons() map[*framework.Status]int {
	if k.rejected != nil {
		return map[*framework.Status]int{k.rejected: k.cache.Len()}
	}
	all := make(map[*framework.Status]int, len(k.reasons)+len(k.groups))
	for why, n := range k.reasons {
		all[why] = n
	}
	for _, g := range k.groups {
		if g.why != nil {
			all[g.why] += len(g.heap)
		}
	}
	return all
}

// Nodes returns how many nodes there are.
func (k *Class) Nodes() int { return k.cache.Len() }

// LowestPriority returns the lowest priority of a pod that has a node.
func (k *Class) LowestPriority() (lowest int32, any bool) { return k.cache.LowestPriority() }

// Node returns the node of that name, or nil.
func (k *Class) Node(name string) *framework.NodeInfo { return k.cache.Node(name) }

// Fits returns nil if a pod of the class would fit on n were it as in view.
// Unlike Best it counts nominated pods only if they are in view.
func (k *Class) Fits(n, view *framework.NodeInfo) *framework.Status {
	if k.rejected != nil {
		return k.rejected
	}
	k.refresh()
	if k.only != nil && !k.only[n.Node.Name] {
		return k.excluded
	}
	if why := firstOf(k.local, view); why != nil {
		return why
	}
	return k.checkShared(n, view)
}

// Message says why no node will do, in upstream's words: how many nodes there
// are and how many of them gave which reason.
func (k *Class) Message() string {
	switch {
	case k.cache.Len() == 0:
		return "no nodes available to schedule pods"
	case k.rejected != nil:
		return fmt.Sprintf("0/%d nodes are available: %s.", k.cache.Len(), k.rejected.Message())
	}
	return framework.Summary(k.cache.Len(), k.Reasons())
}

// RejectedBy returns the plugins that gave a reason, in order of their names.
func (k *Class) RejectedBy() []string {
	if k.rejected != nil {
		return []string{k.rejected.Plugin}
	}
	var plugins []string
	for why := range k.Reasons() {
		if !slices.Contains(plugins, why.Plugin) {
			plugins = append(plugins, why.Plugin)
		}
	}
	slices.SortFunc(plugins, cmp.Compare[string])
	return plugins
}
