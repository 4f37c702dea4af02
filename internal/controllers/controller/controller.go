// Package controller is what all controllers have in common: what they are
// given, and how a reconciler is put on a queue that the cache's events fill.
package controller

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	crcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"skiff/internal/client"
)

// Deps is what a controller is given.
type Deps struct {
	client.Set
	Clock clock.WithTicker
	// Delays is the Stopwatch; nil: Clock.
	Delays clock.WithTicker
	Log    *slog.Logger
	// Metrics counts what goes through the queues; nil counts nothing.
	Metrics *Metrics
}

// Stopwatch measures how long keys wait and how long ago something was: setting
// the clock has no effect on it.
func (d Deps) Stopwatch() clock.WithTicker {
	if d.Delays != nil {
		return d.Delays
	}
	return d.Clock
}

// Runnable is a controller that is ready to run.
type Runnable interface {
	// Start works until ctx ends; it returns an error if the cache could not
	// be read.
	Start(ctx context.Context) error
}

// Func makes a Runnable of a function.
type Func func(ctx context.Context) error

// Start calls the function.
func (f Func) Start(ctx context.Context) error { return f(ctx) }

// Request names the object to reconcile.
type Request = reconcile.Request

// Queue is where event handlers put requests.
type Queue = workqueue.TypedRateLimitingInterface[Request]

// Reconcile brings the world one step nearer to what the named object wants.
type Reconcile func(ctx context.Context, key types.NamespacedName) (reconcile.Result, error)

// Failed requests wait from firstRetry to lastRetry, doubling, before they are
// tried again.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 2 * time.Minute
	// conflictRetry is the time for an event to bring what was overlooked.
	conflictRetry = 20 * time.Millisecond
)

// New makes a controller that calls f, from as many goroutines as workers
// says but never twice at a time for one key, with what the sources put on its
// queue.
func New(d Deps, name string, workers int, f Reconcile, sources ...source.Source) (Runnable, error) {
	delays := d.Stopwatch()
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[Request](firstRetry, lastRetry)
	var waiting workqueue.Queue[Request] // nil: the library's own
	if d.Metrics != nil {
		q := d.Metrics.queue(name, d.Clock)
		limiter, waiting, f = retrying{limiter, q}, &order{queueMetrics: q}, q.work(f)
	}
	c, err := crcontroller.NewTypedUnmanaged(name, crcontroller.TypedOptions[Request]{
		SkipNameValidation:      ptr.To(true),
		MaxConcurrentReconciles: workers,
		RateLimiter:             limiter,
		// A queue with a name reports to a process-wide metrics provider, and
		// wakes up twice a second for it.
		NewQueue: func(_ string, limiter workqueue.TypedRateLimiter[Request]) Queue {
			q := newQueue(limiter, waiting, delays)
			for _, s := range sources {
				if c, ok := s.(capture); ok {
					c.give(q)
				}
			}
			return q
		},
		// V(4) is slog's debug level: what the library says of itself.
		LogConstructor: func(r *Request) logr.Logger {
			log := logr.FromSlogHandler(d.Log.Handler()).V(4)
			if r != nil {
				log = log.WithValues("key", r.String())
			}
			return log
		},
		Reconciler: reconcile.Func(func(ctx context.Context, r Request) (reconcile.Result, error) {
			result, err := f(ctx, r.NamespacedName)
			switch {
			case ctx.Err() != nil:
				return reconcile.Result{}, nil
			case apierrors.IsConflict(err):
				// Somebody else was faster: nothing to report.
				d.Log.Debug("trying again after a conflict", "key", r.String(), "error", err)
				return reconcile.Result{RequeueAfter: conflictRetry}, nil
			}
			return result, err
		}),
	})
	if err != nil {
		return nil, fmt.Errorf("controller %s: %w", name, err)
	}
	for _, s := range sources {
		if _, ok := s.(capture); ok {
			continue
		}
		if err := c.Watch(s); err != nil {
			return nil, fmt.Errorf("controller %s: %w", name, err)
		}
	}
	return c, nil
}

// newQueue makes a queue whose keys wait in the order that waiting says; nil
// means one after the other.
func newQueue(limiter workqueue.TypedRateLimiter[Request], waiting workqueue.Queue[Request], c clock.WithTicker) Queue {
	keys := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[Request]{Clock: c, Queue: waiting})
	return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[Request]{
		Clock: c, DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[Request]{Clock: c, Queue: keys}),
	})
}

// Watch calls changed with every change of objects of T's kind: old is nil
// when the object is new (or seen for the first time), obj is nil when it is
// gone. Both are shared with others and must not be changed.
func Watch[T crclient.Object](d Deps, kind T, changed func(q Queue, old, obj T)) source.Source {
	return source.Kind(d.Cache, kind, changes[T](changed))
}

// changes is an event handler.
type changes[T crclient.Object] func(q Queue, old, obj T)

// Create, Update, Delete and Generic implement handler.TypedEventHandler.
func (f changes[T]) Create(_ context.Context, e event.TypedCreateEvent[T], q Queue) {
	var none T
	f(q, none, e.Object)
}

func (f changes[T]) Update(_ context.Context, e event.TypedUpdateEvent[T], q Queue) {
	f(q, e.ObjectOld, e.ObjectNew)
}

func (f changes[T]) Delete(_ context.Context, e event.TypedDeleteEvent[T], q Queue) {
	var none T
	f(q, e.Object, none)
}

func (f changes[T]) Generic(context.Context, event.TypedGenericEvent[T], Queue) {}

// WatchSelf puts every object of T's kind on the queue when it changes.
func WatchSelf[T crclient.Object](d Deps, kind T) source.Source {
	return Watch(d, kind, func(q Queue, old, obj T) {
		if gone := crclient.Object(obj) == crclient.Object(*new(T)); gone {
			obj = old
		}
		q.Add(Request{NamespacedName: Key(obj)})
	})
}

// Tick puts the empty key on the queue at start and then once in every period.
func Tick(d Deps, period time.Duration) source.Source {
	return source.Func(func(ctx context.Context, q Queue) error {
		go func() {
			ticker := d.Clock.NewTicker(period)
			defer ticker.Stop()
			for {
				q.Add(Request{})
				select {
				case <-ctx.Done():
					return
				case <-ticker.C():
				}
			}
		}()
		return nil
	})
}

// Once puts the empty key on the queue at start.
func Once() source.Source {
	return source.Func(func(_ context.Context, q Queue) error {
		q.Add(Request{})
		return nil
	})
}

// Add puts the object of that namespace and name on the queue.
func Add(q Queue, namespace, name string) {
	q.Add(Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
}

// Key returns the object's namespace and name.
func Key(o crclient.Object) types.NamespacedName { return crclient.ObjectKeyFromObject(o) }

// Capture lets f keep the queue, for controllers whose keys wake one another.
// It is called before any event handler and any reconcile.
func Capture(f func(Queue)) source.Source { return capture{give: f} }

// capture is a source by name only: sources start all at once, and so the queue
// is given away when it is made.
type capture struct {
	source.Source
	give func(Queue)
}
