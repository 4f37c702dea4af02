package flowcontrol

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// serviceTime is what a request is taken to last until it has ended.
const serviceTime = 3 * time.Millisecond

// level is a priority level: seats, and queues of those who wait for one.
//
// Fairness is by virtual time. Each queue with something to do should get the
// same share of the seats, so a clock runs at the rate of that share, and each
// queue's next request has a virtual start: the time at which the queue would
// have been served if all were. The request that would end first by that clock
// is served next.
type level struct {
	name     string
	exempt   bool
	clock    clock.WithDelayedExecution
	metrics  *levelMetrics
	object   atomic.Pointer[types.UID]
	maxSeats atomic.Int32
	// crowded is called, without the lock, when somebody finds no seat.
	crowded func()

	mu struct {
		sync.Mutex
		// bounds are the configured limits; limit is the present one.
		bounds
		limit int
		// reject refuses instead of queueing.
		reject      bool
		handSize    int
		queueLength int
		queues      []*queue
		// next is where the search for the next queue begins.
		next int

		executing, executingSeats int
		waiting, waitingSeats     int
		active                    int
		virtual                   float64
		// dispatched is virtual, and started the virtual start, as of the last
		// dispatch.
		dispatched, started float64
		at                  time.Time
		demand              demand
	}
}

// bounds are what a level's limit may be: nominal, at least after lending, and
// at most by borrowing.
type bounds struct{ nominal, lower, upper int }

// queue is one of a level's queues. It is guarded by the level's lock.
type queue struct {
	waiting   []*waiter
	executing int
	// start is the virtual start of the next request.
	start float64
}

// waiter is a request in a queue.
type waiter struct {
	flow   *flowMetrics
	width  int
	called chan struct{}
	// seated is set when it left the queue for a seat.
	seated bool
}

func newLevel(name string, c clock.WithDelayedExecution, m *levelMetrics, crowded func()) *level {
	l := &level{name: name, exempt: name == flowcontrolv1.PriorityLevelConfigurationNameExempt, clock: c, metrics: m, crowded: crowded}
	l.mu.at = c.Now()
	l.mu.demand.since, l.mu.demand.at = l.mu.at, l.mu.at
	l.setUID("")
	l.maxSeats.Store(1)
	return l
}

func (l *level) uid() types.UID       { return *l.object.Load() }
func (l *level) setUID(uid types.UID) { l.object.Store(&uid) }

// configure applies what p says. Queues that are no longer there stay until
// they are empty: what waits in them is served, and nothing is added.
func (l *level) configure(p *flowcontrolv1.PriorityLevelConfiguration, b bounds, initial int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.limit == 0 || l.mu.bounds != b {
		l.mu.limit = initial
	}
	l.mu.bounds = b
	l.maxSeats.Store(1)
	limited := p.Spec.Limited
	if limited == nil {
		return
	}
	q := limited.LimitResponse.Queuing
	l.mu.reject = q == nil
	if q != nil {
		l.mu.handSize, l.mu.queueLength = int(q.HandSize), int(q.QueueLengthLimit)
		for len(l.mu.queues) < int(q.Queues) {
			l.mu.queues = append(l.mu.queues, &queue{})
		}
		if kept := l.mu.queues[:int(q.Queues)]; len(kept) < len(l.mu.queues) && l.mu.waiting == 0 {
			l.mu.queues = kept
		}
		// A request takes at most 15 % of the level, and its hand at most all.
		l.maxSeats.Store(int32(max(1, min((b.nominal*15+99)/100, b.nominal/max(1, int(q.HandSize))))))
	}
	l.dispatchLocked()
}

func (l *level) setLimit(limit int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.limit = limit
	l.dispatchLocked()
}

// idle reports whether nothing executes or waits.
func (l *level) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.executing == 0 && l.mu.waiting == 0
}

// acquire takes a seat, or waits for one.
func (l *level) acquire(ctx context.Context, class Class, width int, wait time.Duration) (Seat, error) {
	flow := class.schema.metrics
	l.mu.Lock()
	now := l.clock.Now()
	l.advanceLocked(now)
	l.sampleLocked(width)
	flow.width.Observe(float64(width))
	if l.exempt {
		l.seatLocked(nil, width, flow)
		l.mu.Unlock()
		flow.dispatched.Inc()
		return Seat{class: class, width: width, start: now}, nil
	}
	if l.mu.reject {
		if !l.fitsLocked(width) {
			l.mu.demand.note(now, float64(l.mu.executingSeats+width))
			l.mu.Unlock()
			l.crowded()
			flow.rejected("concurrency-limit")
			return Seat{}, ErrTooMany
		}
		l.seatLocked(nil, width, flow)
		l.mu.Unlock()
		flow.dispatched.Inc()
		return Seat{class: class, width: width, start: now}, nil
	}
	q := l.chooseLocked(class.hash)
	if len(q.waiting) == 0 && q.executing == 0 {
		q.start = l.mu.virtual
	}
	if l.mu.waiting == 0 && l.fitsLocked(width) {
		l.seatLocked(q, width, flow)
		l.mu.Unlock()
		flow.dispatched.Inc()
		return Seat{class: class, queue: q, width: width, start: now}, nil
	}
	if len(q.waiting) >= l.mu.queueLength {
		l.mu.Unlock()
		l.crowded()
		flow.rejected("queue-full")
		return Seat{}, ErrTooMany
	}
	w := &waiter{flow: flow, width: width, called: make(chan struct{})}
	l.enqueueLocked(q, w, now)
	flow.queueLength.Observe(float64(len(q.waiting)))
	l.dispatchLocked()
	l.mu.Unlock()
	l.crowded()

	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case <-w.called:
	case <-ctx.Done():
		if !l.leave(q, w) {
			reason := "time-out"
			if ctx.Err() == context.Canceled {
				reason = "cancelled"
			}
			flow.rejected(reason)
			flow.waitedInVain.Observe(l.clock.Since(now).Seconds())
			return Seat{}, ErrTooMany
		}
	}
	start := l.clock.Now()
	flow.waited.Observe(start.Sub(now).Seconds())
	flow.dispatched.Inc()
	return Seat{class: class, queue: q, width: width, start: start}, nil
}

// leave takes w out of its queue, unless it has a seat by now.
func (l *level) leave(q *queue, w *waiter) (seated bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.seated {
		return true
	}
	l.advanceLocked(l.clock.Now())
	for i, other := range q.waiting {
		if other == w {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			break
		}
	}
	l.leftLocked(q, w)
	return false
}

func (l *level) release(s *Seat) {
	now := l.clock.Now()
	took := now.Sub(s.start)
	flow := s.class.schema.metrics
	l.mu.Lock()
	l.advanceLocked(now)
	l.mu.executing--
	l.mu.executingSeats -= s.width - s.trail
	flow.executing.Add(-1)
	flow.seats.Add(-int64(s.width - s.trail))
	if q := s.queue; q != nil {
		q.executing--
		q.start += float64(took-serviceTime) * float64(s.width)
		if q.executing == 0 && len(q.waiting) == 0 {
			l.mu.active--
		}
	}
	l.dispatchLocked()
	l.mu.Unlock()
	flow.executed.Observe(took.Seconds())
	if trail := s.trail; trail > 0 {
		l.clock.AfterFunc(s.extra, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.advanceLocked(l.clock.Now())
			l.mu.executingSeats -= trail
			flow.seats.Add(-int64(trail))
			l.dispatchLocked()
		})
		flow.trailed.Observe(s.extra.Seconds())
	}
}

// advanceLocked brings the virtual clock and the account of the demand to now.
func (l *level) advanceLocked(now time.Time) {
	demand := l.mu.executingSeats + l.mu.waitingSeats
	l.mu.demand.note(now, float64(demand))
	if passed := now.Sub(l.mu.at); passed > 0 {
		if l.mu.active > 0 {
			l.mu.virtual += float64(passed) * float64(min(demand, l.mu.limit)) / float64(l.mu.active)
		}
		l.mu.at = now
	}
}

func (l *level) fitsLocked(width int) bool {
	// A request wider than the whole level is served when it is alone.
	return l.mu.executingSeats+width <= l.mu.limit || l.mu.executing == 0
}

func (l *level) seatLocked(q *queue, width int, flow *flowMetrics) {
	l.mu.executing++
	l.mu.executingSeats += width
	flow.executing.Add(1)
	flow.seats.Add(int64(width))
	if q != nil {
		if q.executing == 0 && len(q.waiting) == 0 {
			l.mu.active++
		}
		l.mu.dispatched, l.mu.started = l.mu.virtual, q.start
		q.executing++
		q.start += float64(serviceTime) * float64(width)
	}
}

func (l *level) enqueueLocked(q *queue, w *waiter, now time.Time) {
	if q.executing == 0 && len(q.waiting) == 0 {
		l.mu.active++
	}
	q.waiting = append(q.waiting, w)
	l.mu.waiting++
	l.mu.waitingSeats += w.width
	w.flow.waiting.Add(1)
	w.flow.waitingSeats.Add(int64(w.width))
	l.mu.demand.note(now, float64(l.mu.executingSeats+l.mu.waitingSeats))
}

// leftLocked accounts for w, which is no longer in q.
func (l *level) leftLocked(q *queue, w *waiter) {
	l.mu.waiting--
	l.mu.waitingSeats -= w.width
	w.flow.waiting.Add(-1)
	w.flow.waitingSeats.Add(-int64(w.width))
	if q.executing == 0 && len(q.waiting) == 0 {
		l.mu.active--
	}
}

// dispatchLocked gives free seats to those whose turn it is.
func (l *level) dispatchLocked() {
	for l.mu.waiting > 0 {
		q := l.firstLocked()
		w := q.waiting[0]
		if !l.fitsLocked(w.width) {
			return
		}
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		w.seated = true
		l.leftLocked(q, w)
		l.seatLocked(q, w.width, w.flow)
		close(w.called)
	}
}

// firstLocked returns the queue whose next request ends first in virtual time;
// of equals the one after the last that was served.
func (l *level) firstLocked() *queue {
	var best *queue
	var bestEnd float64
	at := 0
	for i := range l.mu.queues {
		j := (l.mu.next + i) % len(l.mu.queues)
		q := l.mu.queues[j]
		if len(q.waiting) == 0 {
			continue
		}
		end := q.start + float64(serviceTime)*float64(q.waiting[0].width)
		if best == nil || end < bestEnd {
			best, bestEnd, at = q, end, j
		}
	}
	l.mu.next = at + 1
	return best
}

// chooseLocked deals the flow its hand of queues, always the same, and returns
// the one of them with the least to do. So a flow that fills its queues takes
// all queues of few others (shuffle sharding).
func (l *level) chooseLocked(hash uint64) *queue {
	var dealt [16]int
	hand := dealt[:0]
	n := uint64(len(l.mu.queues))
	var best *queue
	for i := range min(l.mu.handSize, len(dealt), len(l.mu.queues)) {
		card := int(hash % (n - uint64(i)))
		hash /= n - uint64(i)
		// The card-th of those not yet dealt, which hand holds in order.
		at := 0
		for at < len(hand) && hand[at] <= card {
			card++
			at++
		}
		hand = append(hand, 0)
		copy(hand[at+1:], hand[at:])
		hand[at] = card
		if q := l.mu.queues[card]; best == nil || q.load() < best.load() {
			best = q
		}
	}
	return best
}

func (q *queue) load() int { return len(q.waiting) + q.executing }
