// Package queue holds the pods that wait for a node: those that can be tried
// now, those that failed and wait a while before they are tried again, those
// that wait for something to change in the cluster, and those that must not be
// tried at all (gated).
//
// It is not safe for concurrent use.
package queue

import (
	"container/heap"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/scheduler/framework"
)

// Options of a Queue.
type Options struct {
	// Less orders the pods that can be tried.
	Less func(a, b *framework.QueuedPod) bool
	// Gate returns why a pod must not be tried, or nil.
	Gate func(*corev1.Pod) *framework.Status
	// Cures reports whether an event may help a pod that the plugin rejected.
	Cures func(plugin string, pod *framework.PodInfo, e framework.Event) bool
	Now   func() time.Time
	// A pod waits InitialBackoff after the first failure and twice as long after
	// each further one, up to MaxBackoff.
	InitialBackoff, MaxBackoff time.Duration
}

// Queue is the waiting pods.
type Queue struct {
	Options
	pods    map[types.UID]*entry
	active  active
	backoff backoff
	// unschedulable are the entries in that state.
	unschedulable map[types.UID]*entry
}

type state int

const (
	isActive state = iota
	isBackoff
	isUnschedulable
	isGated
	// isTaken is the state of pods that are being scheduled or bound.
	isTaken
)

type entry struct {
	*framework.QueuedPod
	state state
	// index is the place in the heap of the state.
	index int
	// ready is when the backoff ends.
	ready time.Time
}

// New returns an empty queue.
func New(o Options) *Queue {
	return &Queue{Options: o, pods: make(map[types.UID]*entry), unschedulable: make(map[types.UID]*entry), active: active{less: o.Less}}
}

// Set takes in a new or changed pod without a node. A changed pod that waits
// for the cluster to change is tried again if the change matters for it.
func (q *Queue) Set(p *framework.PodInfo) {
	e := q.pods[p.UID]
	if e == nil {
		e = &entry{QueuedPod: &framework.QueuedPod{PodInfo: p, Added: q.Now()}, index: -1}
		q.pods[p.UID] = e
		q.enqueue(e)
		return
	}
	matters := e.Class != p.Class
	e.PodInfo = p
	switch {
	case e.state == isTaken:
	case e.state == isGated, matters && e.state == isUnschedulable:
		q.leave(e)
		q.enqueue(e)
	case e.state == isActive:
		heap.Fix(&q.active, e.index)
	}
}

func (q *Queue) enqueue(e *entry) {
	if why := q.Gate(e.Pod); why != nil {
		e.state, e.RejectedBy = isGated, []string{why.Plugin}
		return
	}
	if e.ready.After(q.Now()) {
		e.state = isBackoff
		heap.Push(&q.backoff, e)
		return
	}
	e.state = isActive
	e.Added = q.Now()
	heap.Push(&q.active, e)
}

func (q *Queue) leave(e *entry) {
	switch e.state {
	case isActive:
		heap.Remove(&q.active, e.index)
	case isBackoff:
		heap.Remove(&q.backoff, e.index)
	case isUnschedulable:
		delete(q.unschedulable, e.UID)
	}
}

// Delete forgets the pod; it reports whether it was waiting.
func (q *Queue) Delete(uid types.UID) (*framework.PodInfo, bool) {
	e := q.pods[uid]
	if e == nil {
		return nil, false
	}
	q.leave(e)
	delete(q.pods, uid)
	return e.PodInfo, true
}

// Take removes the first pod that can be tried; it stays known, so that changes
// of it are not taken for new pods. It returns nil if there is none.
func (q *Queue) Take() *framework.QueuedPod {
	q.flush()
	if q.active.Len() == 0 {
		return nil
	}
	e := heap.Pop(&q.active).(*entry)
	e.state = isTaken
	e.Attempts++
	return e.QueuedPod
}

// flush moves pods whose backoff has ended.
func (q *Queue) flush() {
	now := q.Now()
	for len(q.backoff) > 0 && !q.backoff[0].ready.After(now) {
		q.enqueue(heap.Pop(&q.backoff).(*entry))
	}
}

// Ready returns when the next backoff ends; ok is false if none runs.
func (q *Queue) Ready() (t time.Time, ok bool) {
	if len(q.backoff) == 0 {
		return t, false
	}
	return q.backoff[0].ready, true
}

// Reject returns a taken pod that the plugins rejected: it waits until an
// event may cure one of them. Without plugins it failed for another reason and
// is tried again after its backoff.
func (q *Queue) Reject(uid types.UID, plugins []string) {
	e := q.pods[uid]
	if e == nil || e.state != isTaken {
		return
	}
	e.RejectedBy = plugins
	e.ready = q.Now().Add(q.wait(e.Attempts))
	if len(plugins) > 0 {
		e.state = isUnschedulable
		q.unschedulable[uid] = e
		return
	}
	q.enqueue(e)
}

func (q *Queue) wait(attempts int) time.Duration {
	d := q.InitialBackoff
	for i := 1; i < attempts && d < q.MaxBackoff; i++ {
		d *= 2
	}
	return min(d, q.MaxBackoff)
}

// Wake moves the pods that e may help.
func (q *Queue) Wake(ev framework.Event) {
	for _, e := range q.unschedulable {
		if slices.ContainsFunc(e.RejectedBy, func(plugin string) bool { return q.Cures(plugin, e.PodInfo, ev) }) {
			q.leave(e)
			q.enqueue(e)
		}
	}
}

// Len returns how many pods wait, in whatever way.
func (q *Queue) Len() int { return len(q.pods) }

// active is a heap in the order of less.
type active struct {
	entries []*entry
	less    func(a, b *framework.QueuedPod) bool
}

func (h *active) Len() int           { return len(h.entries) }
func (h *active) Less(i, j int) bool { return h.less(h.entries[i].QueuedPod, h.entries[j].QueuedPod) }
func (h *active) Swap(i, j int) {
	h.entries[i], h.entries[j] = h.entries[j], h.entries[i]
	h.entries[i].index, h.entries[j].index = i, j
}
func (h *active) Push(x any) {
	e := x.(*entry)
	e.index = len(h.entries)
	h.entries = append(h.entries, e)
}
func (h *active) Pop() any {
	last := len(h.entries) - 1
	e := h.entries[last]
	h.entries[last] = nil
	h.entries = h.entries[:last]
	return e
}

// backoff is a heap by the end of the backoff.
type backoff []*entry

func (h backoff) Len() int           { return len(h) }
func (h backoff) Less(i, j int) bool { return h[i].ready.Before(h[j].ready) }
func (h backoff) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *backoff) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}
func (h *backoff) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	*h = (*h)[:last]
	return e
}
