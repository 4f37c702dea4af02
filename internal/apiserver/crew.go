package apiserver

import (
	"context"
	"sync/atomic"
)

// crewSize is how many goroutines wait for requests at most.
const crewSize = 128

// crew are goroutines that handle one request after the other. The stack of a
// new goroutine is too small for a handler, and is copied to a larger one
// several times on its way down; those of the crew have grown.
type crew struct {
	work chan func()
	idle atomic.Int32
	// left ends those that wait.
	left <-chan struct{}
}

func newCrew(ctx context.Context) *crew {
	return &crew{work: make(chan func()), left: ctx.Done()}
}

// do calls f, which does not panic, on a goroutine other than the caller's.
func (c *crew) do(f func()) {
	select {
	case c.work <- f:
	default:
		go c.member(f)
	}
}

func (c *crew) member(f func()) {
	for {
		f()
		f = nil // what it holds must not stay while there is nothing to do
		if c.idle.Add(1) > crewSize {
			c.idle.Add(-1)
			return
		}
		select {
		case f = <-c.work:
			c.idle.Add(-1)
		case <-c.left:
			return
		}
	}
}
