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
	// Cures reports whether an event may help pod, and all others of its class,
	// which the plugin rejected.
	Cures func(plugin string, pod *framework.PodInfo, e framework.Event) bool
	Now   func() time.Time
	// Moved, if set, is told of every pod that is put on a queue, and why.
	Moved func(queue, event string)
	// A pod waits InitialBackoff after the first failure and twice as long after
	// each further one, up to MaxBackoff.
	InitialBackoff, MaxBackoff time.Duration
}

// Queue is the waiting pods.
type Queue struct {
	Options
	pods   map[types.UID]*entry
	active active
	// backoff are pods that may be tried before their time if there is nothing
	// else to do; failed are those that the scheduler or the API failed: they may
	// not, or they would be tried again and again.
	backoff, failed backoff
	// stuck are the pods that wait for an event, equal ones together: what helps
	// one helps the others, as far as there is room for them.
	stuck map[ailment]*ward
	// held are pods that wait for an event and may not be tried yet.
	held map[types.UID]*entry
}

// ailment is what pods have in common that wait for the same events: their
// class, and the plugin that does not let them be tried, if one does not.
type ailment struct{ class, gate string }

// ward is the pods with one ailment, in the order in which they are to be
// tried. It is never empty.
type ward struct {
	// plugins rejected the last one of them that was tried.
	plugins []string
	pods    active
}

type state int

const (
	isActive state = iota
	isBackoff
	isFailed
	isStuck
	isHeld
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
	// ailment is where a stuck pod is, or was until it was woken. While woken is
	// set, it is tried on behalf of the others there.
	ailment ailment
	woken   bool
	// cured is set for a held pod that an event helped.
	cured bool
}

// New returns an empty queue.
func New(o Options) *Queue {
	return &Queue{
		Options: o, pods: make(map[types.UID]*entry), stuck: make(map[ailment]*ward),
		held: make(map[types.UID]*entry), active: active{less: o.Less},
	}
}

// Set takes in a new or changed pod without a node. A changed pod that waits
// for the cluster to change is tried again if the change matters for it.
func (q *Queue) Set(p *framework.PodInfo) {
	e := q.pods[p.UID]
	if e == nil {
		e = &entry{QueuedPod: &framework.QueuedPod{PodInfo: p, Added: q.Now()}, index: -1}
		q.pods[p.UID] = e
		q.enqueue(e, PodAdd)
		return
	}
	matters := e.Class != p.Class || len(e.Spec.SchedulingGates) != len(p.Spec.SchedulingGates) ||
		len(e.Status.ResourceClaimStatuses) != len(p.Status.ResourceClaimStatuses)
	if matters {
		q.handOn(e)
	}
	switch {
	case matters && e.state == isStuck:
		q.leave(e)
		e.PodInfo = p
		q.enqueue(e, PodUpdate)
	case matters && e.state == isActive:
		e.PodInfo = p
		heap.Fix(&q.active, e.index)
	default:
		e.PodInfo = p
	}
}

// enqueue puts a pod where it belongs; event is what happened to it.
func (q *Queue) enqueue(e *entry, event string) {
	if why := q.Gate(e.Pod); why != nil {
		e.RejectedBy = []string{why.Plugin}
		q.wait(e, why.Plugin, event)
		return
	}
	if e.First.IsZero() {
		e.First = q.Now()
	}
	if e.ready.After(q.Now()) {
		e.state = isBackoff
		heap.Push(&q.backoff, e)
		q.moved(Backoff, event)
		return
	}
	q.activate(e, event)
}

func (q *Queue) activate(e *entry, event string) {
	q.moved(Active, event)
	e.state = isActive
	e.Added = q.Now()
	heap.Push(&q.active, e)
}

// wait puts the pod where it waits for an event.
func (q *Queue) wait(e *entry, gate, event string) {
	if gate == "" {
		q.moved(Unschedulable, event)
	} else {
		q.moved(Gated, event)
	}
	e.state, e.woken = isStuck, false
	e.ailment = ailment{e.Class, gate}
	w := q.stuck[e.ailment]
	if w == nil {
		w = &ward{pods: active{less: q.Less}}
		q.stuck[e.ailment] = w
	}
	// The last verdict is true for all of them.
	w.plugins = e.RejectedBy
	heap.Push(&w.pods, e)
}

func (q *Queue) leave(e *entry) {
	switch e.state {
	case isActive:
		heap.Remove(&q.active, e.index)
	case isBackoff:
		heap.Remove(&q.backoff, e.index)
	case isFailed:
		heap.Remove(&q.failed, e.index)
	case isStuck:
		w := q.stuck[e.ailment]
		heap.Remove(&w.pods, e.index)
		if w.pods.Len() == 0 {
			delete(q.stuck, e.ailment)
		}
	case isHeld:
		delete(q.held, e.UID)
	}
}

// Delete forgets the pod; it reports whether it was waiting.
func (q *Queue) Delete(uid types.UID) (*framework.PodInfo, bool) {
	e := q.pods[uid]
	if e == nil {
		return nil, false
	}
	q.handOn(e)
	q.leave(e)
	delete(q.pods, uid)
	return e.PodInfo, true
}

// Take removes the first pod that can be tried; it stays known, so that changes
// of it are not taken for new pods. It returns nil if there is none.
func (q *Queue) Take() *framework.QueuedPod {
	q.flush(&q.backoff)
	q.flush(&q.failed)
	var e *entry
	switch {
	case q.active.Len() > 0:
		e = heap.Pop(&q.active).(*entry)
	case len(q.backoff) > 0:
		e = heap.Pop(&q.backoff).(*entry)
	default:
		return nil
	}
	e.state = isTaken
	e.Attempts++
	// A copy: the entry goes on following the pod while this one is carried out.
	taken := *e.QueuedPod
	return &taken
}

// flush moves pods whose backoff has ended.
func (q *Queue) flush(h *backoff) {
	now := q.Now()
	for len(*h) > 0 && !(*h)[0].ready.After(now) {
		q.activate(heap.Pop(h).(*entry), BackoffComplete)
	}
}

// Ready returns when a pod can be tried next; ok is false if that takes an
// event.
func (q *Queue) Ready() (t time.Time, ok bool) {
	if len(q.failed) == 0 {
		return t, false
	}
	return q.failed[0].ready, true
}

// Reject returns a taken pod that the plugins rejected: it waits until an
// event may cure one of them, and with hold also until it is released.
func (q *Queue) Reject(uid types.UID, plugins []string, hold bool) {
	e := q.pods[uid]
	if e == nil || e.state != isTaken {
		return
	}
	e.RejectedBy = plugins
	e.ready = q.Now().Add(q.delay(e.Attempts))
	if hold {
		e.state, e.cured = isHeld, false
		q.held[uid] = e
		q.moved(Unschedulable, ScheduleAttemptFailure)
		return
	}
	q.wait(e, "", ScheduleAttemptFailure)
}

// Release ends holding the pod.
func (q *Queue) Release(uid types.UID) {
	e := q.pods[uid]
	if e == nil || e.state != isHeld {
		return
	}
	q.leave(e)
	if e.cured {
		q.enqueue(e, ClusterEvent)
	} else {
		q.wait(e, "", ClusterEvent)
	}
}

// Helped tells that a taken pod got what it waited for, or will: there may be
// enough for another one like it.
func (q *Queue) Helped(uid types.UID) {
	if e := q.pods[uid]; e != nil {
		q.handOn(e)
	}
}

// handOn wakes the next pod of the ward that e came from, if e was woken on
// behalf of all.
func (q *Queue) handOn(e *entry) {
	if !e.woken {
		return
	}
	e.woken = false
	if w := q.stuck[e.ailment]; w != nil {
		q.wake(w.pods.entries[0])
	}
}

func (q *Queue) wake(e *entry) {
	q.leave(e)
	e.woken = true
	q.enqueue(e, ClusterEvent)
}

// Retry returns a pod that failed for another reason than that it fits nowhere:
// it is tried again after its backoff.
func (q *Queue) Retry(uid types.UID) {
	e := q.pods[uid]
	if e == nil || e.state != isTaken && e.state != isHeld {
		return
	}
	q.leave(e)
	e.RejectedBy = nil
	e.ready = q.Now().Add(q.delay(e.Attempts))
	e.state = isFailed
	heap.Push(&q.failed, e)
	q.moved(Backoff, ScheduleAttemptFailure)
}

func (q *Queue) delay(attempts int) time.Duration {
	d := q.InitialBackoff
	for i := 1; i < attempts && d < q.MaxBackoff; i++ {
		d *= 2
	}
	return min(d, q.MaxBackoff)
}

// Wake lets pods be tried that ev may help: of equal ones the first, which
// stands for all of them, and those for which room was being made where it
// happened.
func (q *Queue) Wake(ev framework.Event) {
	if ev.Host != nil {
		for _, p := range ev.Host.Nominated {
			if e := q.pods[p.UID]; e != nil && e.state == isStuck {
				q.leave(e)
				q.enqueue(e, ClusterEvent)
			}
		}
	}
	var helped []*entry
	for at, w := range q.stuck {
		first := w.pods.entries[0]
		switch {
		case !q.helps(w.plugins, first, ev):
		case at.gate != "":
			// What gates a pod is its own.
			helped = append(helped, w.pods.entries...)
		default:
			helped = append(helped, first)
		}
	}
	for _, e := range helped {
		q.wake(e)
	}
	for _, e := range q.held {
		e.cured = e.cured || q.helps(e.RejectedBy, e, ev)
	}
}

func (q *Queue) helps(plugins []string, e *entry, ev framework.Event) bool {
	return slices.ContainsFunc(plugins, func(plugin string) bool { return q.Cures(plugin, e.PodInfo, ev) })
}

// Len returns how many pods wait, in whatever way.
func (q *Queue) Len() int { return len(q.pods) }
