// Package timers runs any number of deadlines on one timer and one goroutine.
package timers

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Queue holds at most one deadline for each key.
type Queue[K comparable] struct {
	clock clock.Clock
	fire  func(K)
	wake  chan struct{}
	mu    struct {
		sync.Mutex
		heap  entries[K]
		byKey map[K]*entry[K]
	}
}

type entry[K comparable] struct {
	key   K
	at    time.Time
	index int
}

// New returns a queue that calls fire, from Run's goroutine, for each deadline
// that passes. fire must not block.
func New[K comparable](c clock.Clock, fire func(K)) *Queue[K] {
	q := &Queue[K]{clock: c, fire: fire, wake: make(chan struct{}, 1)}
	q.mu.byKey = map[K]*entry[K]{}
	return q
}

// Set sets the key's deadline, in place of the one it had.
func (q *Queue[K]) Set(key K, at time.Time) {
	q.mu.Lock()
	if e := q.mu.byKey[key]; e != nil {
		e.at = at
		heap.Fix(&q.mu.heap, e.index)
	} else {
		e = &entry[K]{key: key, at: at}
		q.mu.byKey[key] = e
		heap.Push(&q.mu.heap, e)
	}
	first := q.mu.heap[0].key == key
	q.mu.Unlock()
	if first {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// Cancel drops the key's deadline.
func (q *Queue[K]) Cancel(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.mu.byKey[key]; e != nil {
		heap.Remove(&q.mu.heap, e.index)
		delete(q.mu.byKey, key)
	}
}

// Run fires deadlines until ctx ends.
func (q *Queue[K]) Run(ctx context.Context) {
	for {
		next, ok := q.fireDue()
		var c <-chan time.Time
		var timer clock.Timer
		if ok {
			timer = q.clock.NewTimer(next.Sub(q.clock.Now()))
			c = timer.C()
		}
		select {
		case <-ctx.Done():
		case <-q.wake:
		case <-c:
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// fireDue fires what is due and returns the next deadline, if there is one.
func (q *Queue[K]) fireDue() (time.Time, bool) {
	for {
		q.mu.Lock()
		if len(q.mu.heap) == 0 {
			q.mu.Unlock()
			return time.Time{}, false
		}
		first := q.mu.heap[0]
		if at := first.at; at.After(q.clock.Now()) {
			q.mu.Unlock()
			return at, true
		}
		heap.Pop(&q.mu.heap)
		delete(q.mu.byKey, first.key)
		q.mu.Unlock()
		q.fire(first.key)
	}
}

type entries[K comparable] []*entry[K]

func (h entries[K]) Len() int           { return len(h) }
func (h entries[K]) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h entries[K]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *entries[K]) Push(x any) {
	e := x.(*entry[K])
	e.index = len(*h)
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *entries[K]) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
