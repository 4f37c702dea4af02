package framework

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Changes wakes those that wait for something to change. The zero value is
// ready for use.
type Changes struct {
	mu sync.Mutex
	// next is closed at the next change; nil while nobody waits.
	next chan struct{}
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

// Await asks done, and again after each change, until it says so or fails. It
// returns late if that takes longer than patience.
func (c *Changes) Await(ctx context.Context, clk clock.WithTicker, patience time.Duration, late error, done func() (bool, error)) error {
	var timeout <-chan time.Time
	for {
		// What changes while done looks is not to be missed.
		changed := c.nextChange()
		if ok, err := done(); ok || err != nil {
			return err
		}
		if timeout == nil {
			timer := clk.NewTimer(patience)
			defer timer.Stop()
			timeout = timer.C()
		}
		select {
		case <-changed:
		case <-timeout:
			return late
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// nextChange returns a channel that is closed when something changes.
func (c *Changes) nextChange() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = make(chan struct{})
	}
	return c.next
}
