package apiserver

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apiserver/flowcontrol"
	"skiff/internal/identity"
	"skiff/internal/store/cache"
)

const (
	// bytesPerSeat is how much a list may hold in memory for a seat. One from the
	// cache is sent bit by bit, so that it never holds more than maxListBytes.
	bytesPerSeat = 100_000
	maxListBytes = 1_000_000
	maxListSeats = 100
	// watchersPerSeat is how many watchers of a change are worth a seat for
	// eventTime, and maxChangeSeats what a change takes at most.
	watchersPerSeat = 10
	maxChangeSeats  = 10
	eventTime       = 5 * time.Millisecond
)

// held is a seat that is released at the end of the request or, for a watch,
// when it has begun.
type held struct {
	seat     flowcontrol.Seat
	present  *atomic.Int64
	released atomic.Bool
}

func (h *held) release() {
	if h.released.CompareAndSwap(false, true) {
		h.present.Add(-1)
		h.seat.Release()
	}
}

type heldKey struct{}

// begun frees the seat of a watch that has sent its first state: from then on
// it costs little.
func begun(ctx context.Context) {
	if h, ok := ctx.Value(heldKey{}).(*held); ok {
		h.release()
	}
}

// seat waits until the request may execute. If it may not, the answer has been
// given. Streams are not counted.
func (s *Server) seat(ctx context.Context, w *recorder, r *http.Request, info *requestInfo, user *identity.User) (_ context.Context, release func(), ok bool) {
	if info.longRunning() && info.Verb != "watch" {
		return ctx, func() {}, true
	}
	if s.FlowControl == nil {
		if s.InFlight == nil || info.longRunning() || user.InGroup(identity.GroupMasters) {
			return ctx, func() {}, true
		}
		leave, ok := s.InFlight.Enter(info.mutating())
		if !ok {
			tooMany(w)
		}
		return ctx, leave, ok
	}
	class := s.FlowControl.Classify(&flowcontrol.Request{
		User: user, Verb: info.Verb, Group: info.GroupVersion.Group, Resource: info.Resource, Subresource: info.Subresource,
		Namespace: info.Namespace, Path: info.Path,
	})
	h := w.Header()
	h.Set(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID, string(class.FlowSchemaUID()))
	h.Set(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID, string(class.PriorityLevelUID()))
	// A request may wait for a quarter of its time.
	queue := s.metrics.inQueue[info.mutating()]
	wait := s.RequestTimeout / 4
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/4)
	}
	began := time.Now()
	need := s.estimate(r, info, &class)
	crowd := s.metrics.crowding[info.mutating()]
	crowd.sample(s.FlowControl.Seats())
	queue.Inc()
	crowd.now.waiting.Add(1)
	seat, err := s.FlowControl.Acquire(ctx, class, need.seats, wait)
	queue.Dec()
	crowd.now.waiting.Add(-1)
	w.waited = time.Since(began)
	if err != nil {
		if errors.Is(err, flowcontrol.ErrTooMany) {
			tooMany(w)
		}
		return ctx, nil, false
	}
	seat.Trail(need.trail, need.extra)
	crowd.now.executing.Add(1)
	holder := &held{seat: seat, present: &crowd.now.executing}
	if info.Verb == "watch" {
		ctx = context.WithValue(ctx, heldKey{}, holder)
	}
	return ctx, holder.release, true
}

// work is what a request is estimated to need: seats while it executes, and of
// those some for a while after it is over.
type work struct {
	seats, trail int
	extra        time.Duration
}

// estimate says what the request is worth, of at most so many seats: a list by
// the size of what it goes through, a change by how many watch it.
func (s *Server) estimate(r *http.Request, info *requestInfo, class *flowcontrol.Class) work {
	most := class.MaxSeats()
	if !info.IsResource {
		return work{seats: 1}
	}
	res := s.Verbs.Lookup(schema.GroupResource{Group: info.GroupVersion.Group, Resource: info.Resource})
	if res == nil || res.Collection == nil {
		return work{seats: 1}
	}
	switch info.Verb {
	case "list":
		return work{seats: listSeats(r, info, res.Collection, most)}
	case "watch":
		q := r.URL.Query()
		if rv := q.Get("resourceVersion"); q.Get("sendInitialEvents") == "true" || rv == "" || rv == "0" {
			return work{seats: listSeats(r, info, res.Collection, most)}
		}
	case "create", "update", "patch", "delete":
		if info.Resource == "serviceaccounts" && info.Subresource == "token" {
			return work{seats: 1}
		}
		watchers := res.Collection.Watchers(res.Collection.Key(info.Namespace, info.Name))
		class.Watched(watchers)
		return changeWork(watchers, min(most, maxChangeSeats))
	}
	return work{seats: 1}
}

// listSeats are those of a list, or of a watch that tells the state at its
// start.
func listSeats(r *http.Request, info *requestInfo, c *cache.Collection, most int) int {
	stats := c.Stats()
	objects := int64(stats.Objects)
	if objects == 0 {
		return 1
	}
	size := stats.Bytes / objects
	if limit, err := strconv.ParseInt(r.URL.Query().Get("limit"), 10, 64); err == nil && limit > 0 {
		objects = min(objects, limit)
	}
	if info.Name != "" {
		objects = 1
	}
	seats := (min(objects*size, maxListBytes) + bytesPerSeat - 1) / bytesPerSeat
	return max(1, min(maxListSeats, most, int(seats)))
}

// changeWork is that of a change with so many watchers: each tenth of them is
// taken to keep a seat busy for some milliseconds afterwards.
func changeWork(watchers, most int) work {
	if watchers < watchersPerSeat {
		return work{seats: 1}
	}
	seats := (watchers + watchersPerSeat - 1) / watchersPerSeat
	trail := max(1, min(seats, most))
	return work{seats: trail, trail: trail, extra: eventTime * time.Duration(seats) / time.Duration(trail)}
}

func tooMany(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, "Too many requests, please try again later.", http.StatusTooManyRequests)
}

// mutating tells requests that change something.
func (i *requestInfo) mutating() bool {
	switch i.Verb {
	case "get", "list", "watch", "head", "options":
		return false
	}
	return true
}
