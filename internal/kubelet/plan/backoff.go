package plan

import "time"

// Delays between restarts of a container that keeps ending: 10 s, doubled each
// time up to 5 minutes, forgotten after 10 minutes without a restart (see "Pod
// lifecycle: how Pods handle problems with containers").
const (
	initialDelay = 10 * time.Second
	maxDelay     = 5 * time.Minute
	resetAfter   = 10 * time.Minute
)

// Backoff is the restart delays of one pod's containers. The zero value has
// none. Until only reads it; Restarted is called by who restarts.
type Backoff struct {
	containers map[string]delay
}

type delay struct {
	length  time.Duration
	updated time.Time
}

// Until returns when the container that ended at finished may be started
// again; a time not after now means at once.
func (b *Backoff) Until(name string, finished, now time.Time) time.Time {
	d, ok := b.containers[name]
	if !ok || finished.Sub(d.updated) > resetAfter {
		return now
	}
	return finished.Add(d.length)
}

// Restarted notes that the container, which ended at finished, is started
// again at now.
func (b *Backoff) Restarted(name string, finished, now time.Time) {
	d, ok := b.containers[name]
	switch {
	case !ok || finished.Sub(d.updated) > resetAfter:
		d.length = initialDelay
	default:
		d.length = min(2*d.length, maxDelay)
	}
	d.updated = now
	if b.containers == nil {
		b.containers = map[string]delay{}
	}
	b.containers[name] = d
}

// Delay returns the present delay of the container, zero if there is none.
func (b *Backoff) Delay(name string) time.Duration { return b.containers[name].length }
