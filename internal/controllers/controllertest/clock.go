package controllertest

import (
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"
)

// JumpingClock is the real clock, set wrong by as much as a test likes. Timers
// run in real time, as a machine's do when its clock is set.
type JumpingClock struct {
	clock.RealClock
	offset atomic.Int64
}

// Jump sets the clock forward, or back.
func (c *JumpingClock) Jump(d time.Duration) { c.offset.Add(int64(d)) }

// Now is the time that the clock shows.
func (c *JumpingClock) Now() time.Time {
	return c.RealClock.Now().Add(time.Duration(c.offset.Load()))
}

// Since is the time since t, as far as the clock knows.
func (c *JumpingClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }
