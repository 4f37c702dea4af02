package framework

import "sync"

// Changes wakes those that wait for something to change. The zero value is
// ready for use.
type Changes struct {
	mu sync.Mutex
	// next is closed at the next change; nil while nobody waits.
	next chan struct{}
}

// NextChange returns a channel that is closed when something changes. It must be
// taken before what is waited for is looked at.
func (c *Changes) NextChange() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = make(chan struct{})
	}
	return c.next
}

// Changed wakes all that wait.
func (c *Changes) Changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next != nil {
		close(c.next)
		c.next = nil
	}
}
