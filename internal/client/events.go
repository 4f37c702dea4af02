package client

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/record/util"
	"k8s.io/client-go/tools/reference"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// eventWriters write Events at the same time. They share the store's fsyncs.
	// What is about one object is written by one of them, in order.
	eventWriters = 16
	// keptEvents is how many Events one writer keeps waiting. It is there for
	// servers that cannot be reached; a burst is much smaller.
	keptEvents = 16_384
	// An Event that did not reach the server is sent again so often.
	eventTries     = 12
	eventRetryWait = 10 * time.Second
)

// Recorders returns a Set.Recorder that writes through c until ctx ends.
// Client-go's correlator counts equal events rather than repeating them, and
// stops floods about one object. Events of a burst about many objects wait until
// they are written: client-go's broadcaster would drop them.
func Recorders(ctx context.Context, c client.Client, log *slog.Logger) func(component string) record.EventRecorder {
	r := &recorders{ctx: ctx, client: c, log: log, correlator: sync.OnceValue(func() *record.EventCorrelator {
		return record.NewEventCorrelator(clock.RealClock{})
	})}
	return func(component string) record.EventRecorder { return recorder{r, component} }
}

// recorders writes the Events of all components of one client.
type recorders struct {
	ctx        context.Context
	client     client.Client
	log        *slog.Logger
	correlator func() *record.EventCorrelator
	writers    [eventWriters]eventWriter

	mu struct {
		sync.Mutex
		// last is the time in the name of the last Event: no two have the same.
		last int64
	}
}

// eventWriter is the Events that wait to be written. Its goroutine lives while
// there are any.
type eventWriter struct {
	mu struct {
		sync.Mutex
		waiting []*corev1.Event
		runs    bool
	}
}

// recorder records Events of one component.
type recorder struct {
	*recorders
	component string
}

func (r recorder) Event(obj runtime.Object, kind, reason, message string) {
	r.record(obj, nil, kind, reason, message)
}

func (r recorder) Eventf(obj runtime.Object, kind, reason, format string, args ...any) {
	r.record(obj, nil, kind, reason, fmt.Sprintf(format, args...))
}

func (r recorder) AnnotatedEventf(obj runtime.Object, annotations map[string]string, kind, reason, format string, args ...any) {
	r.record(obj, annotations, kind, reason, fmt.Sprintf(format, args...))
}

func (r recorder) record(obj runtime.Object, annotations map[string]string, kind, reason, message string) {
	about, err := reference.GetReference(r.client.Scheme(), obj)
	if err != nil {
		r.lost(err, reason, message)
		return
	}
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	now := time.Now()
	r.add(&corev1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, Name: util.GenerateEventName(about.Name, r.unique(now)), Annotations: annotations},
		InvolvedObject:      *about,
		Type:                kind,
		Reason:              reason,
		Message:             message,
		Source:              corev1.EventSource{Component: r.component},
		ReportingController: r.component,
		FirstTimestamp:      metav1.NewTime(now),
		LastTimestamp:       metav1.NewTime(now),
		Count:               1,
	})
}

func (r *recorders) unique(now time.Time) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.last = max(r.mu.last+1, now.UnixNano())
	return r.mu.last
}

func (r *recorders) lost(err error, reason, message string) {
	r.log.Warn("an event is lost", "reason", reason, "message", message, "error", err)
}

func (r *recorders) add(e *corev1.Event) {
	h := fnv.New32a()
	h.Write([]byte(e.InvolvedObject.UID))
	h.Write([]byte(e.InvolvedObject.Name))
	w := &r.writers[h.Sum32()%eventWriters]
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.mu.waiting) >= keptEvents {
		r.lost(fmt.Errorf("%d others wait to be written", keptEvents), e.Reason, e.Message)
		return
	}
	w.mu.waiting = append(w.mu.waiting, e)
	if !w.mu.runs {
		w.mu.runs = true
		go r.run(w)
	}
}

func (r *recorders) run(w *eventWriter) {
	for {
		w.mu.Lock()
		batch := w.mu.waiting
		w.mu.waiting = nil
		w.mu.runs = len(batch) > 0
		w.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		for _, e := range batch {
			r.write(e)
		}
	}
}

// write stores an Event, or counts it with the one that is there already.
func (r *recorders) write(e *corev1.Event) {
	correlated, err := r.correlator().EventCorrelate(e)
	if err != nil {
		r.lost(err, e.Reason, e.Message)
		return
	}
	if correlated.Skip {
		return
	}
	for range eventTries {
		var stored *corev1.Event
		stored, err = r.store(correlated)
		if err == nil {
			r.correlator().UpdateState(stored)
			return
		}
		if r.ctx.Err() != nil {
			return
		}
		if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
			// The server was reached and will say the same again.
			if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				r.lost(err, e.Reason, e.Message)
			}
			return
		}
		select {
		case <-r.ctx.Done():
			return
		case <-time.After(eventRetryWait):
		}
	}
	r.lost(err, e.Reason, e.Message)
}

func (r *recorders) store(correlated *record.EventCorrelateResult) (*corev1.Event, error) {
	e := correlated.Event.DeepCopy()
	if e.Count > 1 {
		err := r.client.Patch(r.ctx, e, client.RawPatch(types.StrategicMergePatchType, correlated.Patch))
		if !apierrors.IsNotFound(err) {
			return e, err
		}
		e = correlated.Event.DeepCopy()
		e.ResourceVersion = ""
	}
	return e, r.client.Create(r.ctx, e)
}
