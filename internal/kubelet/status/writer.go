package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// retryDelay is how long a failed write waits; events that arrive meanwhile
// join it.
const retryDelay = time.Second

// Writer brings the API server's view of pods to what the kubelet computed.
// Invariants: a status handed in is written, or replaced by a newer one, until
// the pod is gone from the API; a pod is deleted only after its last status
// was written.
type Writer struct {
	client client.Client
	clock  clock.Clock
	log    *slog.Logger
	wake   chan struct{}

	mu    sync.Mutex
	pods  map[types.UID]*entry
	dirty []types.UID
}

type entry struct {
	// base is the newest object known from the API.
	base   *v1.Pod
	status v1.PodStatus
	queued bool
	// finish asks for the pod's deletion after the status is written.
	finish bool
}

// NewWriter returns a writer; Run must be called.
func NewWriter(c client.Client, clk clock.Clock, log *slog.Logger) *Writer {
	return &Writer{client: c, clock: clk, log: log, wake: make(chan struct{}, 1), pods: map[types.UID]*entry{}}
}

// Set hands in the status of the pod; base is the newest object from the API.
func (w *Writer) Set(base *v1.Pod, status v1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entryLocked(base)
	e.status = status
	if !equality.Semantic.DeepEqual(e.base.Status, status) {
		w.queueLocked(base.UID, e)
	}
}

// Finish asks that the pod be removed from the API, its containers being gone
// for good.
func (w *Writer) Finish(base *v1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entryLocked(base)
	if !e.finish {
		e.finish = true
		w.queueLocked(base.UID, e)
	}
}

// Base returns the newest object known of the pod: what the last write
// returned, if it is newer than pod.
func (w *Writer) Base(pod *v1.Pod) *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.pods[pod.UID]; e != nil && newer(e.base, pod) {
		return e.base
	}
	return pod
}

// Forget drops all that is kept of a pod that left the API.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, uid)
}

func (w *Writer) entryLocked(base *v1.Pod) *entry {
	e := w.pods[base.UID]
	if e == nil {
		e = &entry{base: base, status: base.Status}
		w.pods[base.UID] = e
	} else if newer(base, e.base) {
		e.base = base
	}
	return e
}

// newer compares resource versions, which one API server hands out in order.
func newer(a, b *v1.Pod) bool {
	if len(a.ResourceVersion) != len(b.ResourceVersion) {
		return len(a.ResourceVersion) > len(b.ResourceVersion)
	}
	return a.ResourceVersion > b.ResourceVersion
}

func (w *Writer) queueLocked(uid types.UID, e *entry) {
	if e.queued {
		return
	}
	e.queued = true
	w.dirty = append(w.dirty, uid)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		w.mu.Lock()
		batch := w.dirty
		w.dirty = nil
		w.mu.Unlock()
		failed := false
		for _, uid := range batch {
			if err := w.sync(ctx, uid); err != nil && ctx.Err() == nil {
				w.log.Warn("writing pod status", "uid", uid, "err", err)
				w.requeue(uid)
				failed = true
			}
		}
		if failed {
			select {
			case <-ctx.Done():
				return
			case <-w.clock.After(retryDelay):
			}
		}
	}
}

func (w *Writer) requeue(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.pods[uid]; e != nil {
		w.queueLocked(uid, e)
	}
}

func (w *Writer) sync(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	e := w.pods[uid]
	if e == nil {
		w.mu.Unlock()
		return nil
	}
	e.queued = false
	base, status, finish := e.base, e.status, e.finish
	w.mu.Unlock()

	written, err := w.patch(ctx, base, status)
	if err != nil {
		if w.replaced(ctx, base, err) {
			w.Forget(uid)
			return nil
		}
		return err
	}
	w.mu.Lock()
	if newer(written, e.base) {
		e.base = written
	}
	w.mu.Unlock()
	if !finish {
		return nil
	}
	grace := int64(0)
	err = w.client.Delete(ctx, base.DeepCopy(), &client.DeleteOptions{
		GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if err != nil && !w.replaced(ctx, base, err) {
		return fmt.Errorf("deleting pod %s/%s: %w", base.Namespace, base.Name, err)
	}
	w.Forget(uid)
	return nil
}

// replaced reports whether a write failed because the pod is gone, or another
// pod has its name by now.
func (w *Writer) replaced(ctx context.Context, pod *v1.Pod, err error) bool {
	if apierrors.IsNotFound(err) {
		return true
	}
	if !apierrors.IsConflict(err) && !apierrors.IsInvalid(err) {
		return false
	}
	current := &v1.Pod{}
	err = w.client.Get(ctx, client.ObjectKeyFromObject(pod), current)
	return apierrors.IsNotFound(err) || err == nil && current.UID != pod.UID
}

// patch writes the difference between the base's status and status, if there
// is one. The UID in it keeps it from another pod of the same name.
func (w *Writer) patch(ctx context.Context, base *v1.Pod, status v1.PodStatus) (*v1.Pod, error) {
	if equality.Semantic.DeepEqual(base.Status, status) {
		return base, nil
	}
	data, err := Patch(base, status)
	if err != nil {
		return nil, fmt.Errorf("computing status patch of pod %s/%s: %w", base.Namespace, base.Name, err)
	}
	object := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: base.Namespace, Name: base.Name}}
	if err := w.client.Status().Patch(ctx, object, client.RawPatch(types.StrategicMergePatchType, data)); err != nil {
		return nil, err
	}
	return object, nil
}

// Patch returns the strategic merge patch that turns base's status into
// status.
func Patch(base *v1.Pod, status v1.PodStatus) ([]byte, error) {
	meta := metav1.ObjectMeta{UID: base.UID}
	before, err := json.Marshal(v1.Pod{Status: base.Status})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(v1.Pod{ObjectMeta: meta, Status: status})
	if err != nil {
		return nil, err
	}
	return strategicpatch.CreateTwoWayMergePatch(before, after, v1.Pod{})
}
