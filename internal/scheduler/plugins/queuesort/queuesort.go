// Package queuesort lets pods of higher priority go first, and of those that
// have waited longer.
package queuesort

import "skiff/internal/scheduler/framework"

// Plugin is the order.
type Plugin struct{}

// Name returns the plugin's name.
func (Plugin) Name() string { return "PrioritySort" }

// Less reports whether a goes before b.
func (Plugin) Less(a, b *framework.QueuedPod) bool {
	if a.Priority != b.Priority {
		return a.Priority > b.Priority
	}
	return a.Added.Before(b.Added)
}
