package kubelet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/internal/kubelet/allocation"
	"skiff/internal/kubelet/eviction"
	"skiff/internal/kubelet/plan"
	"skiff/internal/kubelet/status"
	"skiff/internal/kubelet/volumes"
)

// worker is one pod's event loop. Its goroutine exists only while the pod is
// dirty. Invariants:
//
//  1. At most one goroutine syncs a pod, and it alone touches the fields below
//     mu; events only set what is under mu and mark the pod dirty.
//  2. Once a pod ends (it is deleted, its work is done, or the node ends it) it
//     never starts a container again.
//  3. A sync that waits (for a pull, a hook, a container to stop) is interrupted
//     when the pod starts to end or is given less time.
type worker struct {
	k   *Kubelet
	uid string

	mu struct {
		sync.Mutex
		// pod is the newest object from the API; after it left the API, its
		// last state, with removed set.
		pod            *v1.Pod
		removed        bool
		dirty, running bool
		contentDirty   bool
		// ended is true when the pod's containers are gone for good: it holds
		// nothing of the node any more.
		ended bool
		// granted is what the node has given the pod; nil before it is admitted.
		granted *allocation.Granted
		// pending is why the node has not granted what the pod asks for now.
		pending *status.Waiting
		// rejected is true when the node did not take the pod.
		rejected bool
		// evicted is why the node ends the pod for want of something.
		evicted   string
		interrupt context.CancelFunc
	}
	// over is closed when ended becomes true.
	over chan struct{}
	// kicked has an element after the pod was marked dirty, for a sync that
	// takes long.
	kicked chan struct{}

	admitted  bool
	started   time.Time
	backoff   plan.Backoff
	waiting   map[string]status.Waiting
	announced map[string]time.Time // back-offs of which an event told
	// failed is why the node ends the pod, and evicting is true when that is for
	// want of something; finished is true when its work is done.
	failed   *status.Waiting
	evicting bool
	finished bool
	// stopBegan is when its containers were first asked to stop.
	stopBegan time.Time
	cleaned   bool
	mounted   bool
	refresh   time.Time // when volumes' content must be renewed
	failures  int
	// resizeErr is why what was granted could not be set, if it could not.
	resizeErr string
	mountErr  string
}

func newWorker(k *Kubelet, uid string) *worker {
	return &worker{k: k, uid: uid, over: make(chan struct{}), kicked: make(chan struct{}, 1), waiting: map[string]status.Waiting{}, announced: map[string]time.Time{}}
}

// update takes the pod's newest object.
func (w *worker) update(pod *v1.Pod) {
	w.mu.Lock()
	old := w.mu.pod
	w.mu.pod = pod
	if old != nil && volumes.ShowPod(pod) && !(maps.Equal(old.Labels, pod.Labels) && maps.Equal(old.Annotations, pod.Annotations)) {
		w.mu.contentDirty = true
	}
	if w.mu.interrupt != nil && hurried(old, pod) {
		w.mu.interrupt()
	}
	w.mu.Unlock()
	w.kick()
}

// hurried reports whether the pod has to end now, or in less time than before.
func hurried(old, pod *v1.Pod) bool {
	if pod.DeletionTimestamp == nil {
		return false
	}
	return old == nil || old.DeletionTimestamp == nil || pod.DeletionTimestamp.Before(old.DeletionTimestamp)
}

// remove says that the pod is not in the API any more.
func (w *worker) remove(pod *v1.Pod) {
	w.mu.Lock()
	if !w.mu.removed {
		w.mu.removed = true
		if w.mu.interrupt != nil && (w.mu.pod == nil || w.mu.pod.DeletionTimestamp == nil || *grace(pod) == 0) {
			w.mu.interrupt()
		}
		w.mu.pod = pod
	}
	w.mu.Unlock()
	w.kick()
}

func (w *worker) contentChanged() {
	w.mu.Lock()
	w.mu.contentDirty = true
	w.mu.Unlock()
	w.kick()
}

// evict has the pod end in little time, because the node lacks something.
func (w *worker) evict(message string) {
	w.mu.Lock()
	if w.mu.evicted == "" {
		w.mu.evicted = message
		if w.mu.interrupt != nil {
			w.mu.interrupt()
		}
	}
	w.mu.Unlock()
	w.kick()
}

// end notes that the pod's containers are gone for good.
func (w *worker) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.mu.ended {
		w.mu.ended = true
		close(w.over)
	}
}

// endedPod returns the pod if its containers are gone for good, and it is in the
// API still.
func (w *worker) endedPod() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.mu.ended || w.mu.removed {
		return nil
	}
	return w.mu.pod
}

// current returns the pod's newest object, nil if it has left the API.
func (w *worker) current() (pod *v1.Pod, removed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.removed {
		return nil, true
	}
	return w.mu.pod, false
}

// holding returns the pod if it holds resources of the node.
func (w *worker) holding() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.ended || w.mu.rejected || w.mu.pod == nil || !w.admitted {
		return nil
	}
	return w.mu.granted.Apply(w.mu.pod)
}

func (w *worker) isRejected() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.rejected
}

// kick marks the pod dirty and makes sure that a goroutine sees it.
func (w *worker) kick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.dirty = true
	select {
	case w.kicked <- struct{}{}:
	default:
	}
	if w.mu.running || w.k.ctx.Err() != nil {
		return
	}
	w.mu.running = true
	w.k.workers.Add(1)
	go w.loop()
}

func (w *worker) loop() {
	defer w.k.workers.Done()
	for {
		w.mu.Lock()
		if !w.mu.dirty || w.k.ctx.Err() != nil {
			w.mu.running = false
			w.mu.Unlock()
			return
		}
		w.mu.dirty = false
		ctx, cancel := context.WithCancel(w.k.ctx)
		w.mu.interrupt = cancel
		pod, removed := w.mu.pod, w.mu.removed
		w.mu.Unlock()

		again, err := w.sync(ctx, pod, removed)
		interrupted := ctx.Err() != nil
		cancel()
		switch {
		case w.k.ctx.Err() != nil:
		case interrupted || again:
			w.mu.Lock()
			w.mu.dirty = true
			w.mu.Unlock()
		case err != nil:
			w.retry(pod, err)
		}
		if err == nil {
			w.failures = 0
		}
	}
}

// Delays between tries of what failed.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 10 * time.Second
)

func (w *worker) retry(pod *v1.Pod, err error) {
	delay := min(firstRetry<<min(w.failures, 10), lastRetry)
	w.failures++
	w.k.log.Debug("pod is not as it should be yet", "namespace", pod.Namespace, "pod", pod.Name, "retry", delay, "err", err)
	w.wakeAt(w.k.Clock.Now().Add(delay))
}

// wakeAt makes the pod dirty at a time.
func (w *worker) wakeAt(at time.Time) { w.k.wakes.Set(w.uid, at) }

// sync takes the next steps; again asks for another look at once.
func (w *worker) sync(ctx context.Context, pod *v1.Pod, removed bool) (again bool, err error) {
	k := w.k
	if w.cleaned {
		if removed {
			k.forget(w.uid)
			return false, nil
		}
		w.finish(pod)
		return false, nil
	}
	state, err := k.inspector.Pod(ctx, w.uid, pod.Namespace, pod.Name)
	if err != nil {
		return false, err
	}
	if !removed {
		pod = k.newest(pod)
	}
	w.adopt(pod, state, removed)
	pod = w.resize(pod)
	w.takeEviction()
	if w.ending(pod, removed) {
		return w.terminate(ctx, pod, state, removed)
	}
	if !k.static.first(pod) {
		// The one before it in the same file has not ended yet.
		return false, nil
	}
	if !w.admitted {
		if rejection := w.admit(pod, state); rejection != nil {
			w.failed = rejection
			return true, nil
		}
	}
	mirrored := k.ensureMirror(ctx, pod)
	again, err = w.run(ctx, pod, state)
	return again, errors.Join(err, mirrored)
}

// takeEviction has a pod that is evicted fail, unless it ends anyway.
func (w *worker) takeEviction() {
	w.mu.Lock()
	message, ended := w.mu.evicted, w.mu.ended
	w.mu.Unlock()
	if message != "" && !ended && w.failed == nil && !w.finished {
		w.failed, w.evicting = &status.Waiting{Reason: eviction.Reason, Message: message}, true
	}
}

// ending reports whether the pod is to end, or has.
func (w *worker) ending(pod *v1.Pod, removed bool) bool {
	return removed || pod.DeletionTimestamp != nil || w.failed != nil || w.finished || status.Terminal(pod.Status.Phase)
}

// grace returns how long the pod's containers may take to stop, in seconds.
func grace(pod *v1.Pod) *int64 {
	fallback := int64(30)
	switch {
	case pod.DeletionGracePeriodSeconds != nil:
		return pod.DeletionGracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		return pod.Spec.TerminationGracePeriodSeconds
	}
	return &fallback
}

// evictedGrace is the grace period of a pod whose end the node needs, in
// seconds.
const evictedGrace = 1

// grace returns how long the pod's containers may take to stop now, in seconds.
func (w *worker) grace(pod *v1.Pod) int64 {
	if w.evicting {
		return min(evictedGrace, *grace(pod))
	}
	return *grace(pod)
}

// joined returns errs as one error, or nil.
func joined(errs []error) error { return errors.Join(errs...) }

// format names a pod as upstream's messages do.
func format(pod *v1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}
