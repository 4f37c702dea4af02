package class

import (
	"fmt"
	"slices"
	"strings"

	"skiff/internal/scheduler/framework"
)

// Failures calls yield with every node and why the class does not fit there.
func (k *Class) Failures(yield func(n *framework.NodeInfo, why *framework.Status) bool) {
	rows := k.cache.Rows()
	for row, why := range k.why {
		if why != nil && why != absent && !yield(rows[row], why) {
			return
		}
	}
}

// Node returns the node of that name, or nil.
func (k *Class) Node(name string) *framework.NodeInfo { return k.cache.Node(name) }

// Fits returns nil if a pod of the class would fit on n were it as in view.
// Unlike Best it counts nominated pods only if they are in view.
func (k *Class) Fits(n, view *framework.NodeInfo) *framework.Status {
	k.refresh()
	if k.only != nil && !k.only[n.Node.Name] {
		return k.excluded
	}
	if why := firstOf(k.local, view); why != nil {
		return why
	}
	if len(k.shared) == 0 {
		return nil
	}
	// Shared rules are shown the view, and afterwards the truth again.
	k.observe(view)
	why := firstOf(k.shared, view)
	k.observe(n)
	return why
}

// Message says why no node will do, in upstream's words: how many nodes there
// are and how many of them gave which reason.
func (k *Class) Message() string {
	if k.rejected != nil {
		return fmt.Sprintf("0/%d nodes are available: %s.", k.cache.Len(), k.rejected.Message())
	}
	return Summary(k.cache.Len(), k.Failures)
}

// Summary counts the reasons for which none of the nodes will do.
func Summary(nodes int, failures func(yield func(*framework.NodeInfo, *framework.Status) bool)) string {
	if nodes == 0 {
		return "no nodes available to schedule pods"
	}
	byStatus := make(map[*framework.Status]int)
	for _, why := range failures {
		byStatus[why]++
	}
	counts := make(map[string]int)
	for why, n := range byStatus {
		for _, reason := range why.Reasons {
			counts[reason] += n
		}
	}
	reasons := make([]string, 0, len(counts))
	for reason, n := range counts {
		reasons = append(reasons, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(reasons)
	message := fmt.Sprintf("0/%d nodes are available:", nodes)
	if len(reasons) > 0 {
		message += " " + strings.Join(reasons, ", ") + "."
	}
	return message
}

// RejectedBy returns the plugins that gave a reason.
func (k *Class) RejectedBy() []string {
	if k.rejected != nil {
		return []string{k.rejected.Plugin}
	}
	seen := make(map[*framework.Status]bool)
	var plugins []string
	for _, why := range k.Failures {
		if seen[why] {
			continue
		}
		seen[why] = true
		if !slices.Contains(plugins, why.Plugin) {
			plugins = append(plugins, why.Plugin)
		}
	}
	return plugins
}
