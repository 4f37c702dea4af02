package apiserver

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apiserver/flowcontrol"
	"skiff/internal/identity"
)

const (
	// objectsPerSeat is how many objects a list may go through for a seat, and
	// maxListSeats what the longest takes.
	objectsPerSeat = 100
	maxListSeats   = 10
)

// held is a seat that is released at the end of the request or, for a watch,
// when it has begun.
type held struct {
	seat     flowcontrol.Seat
	released atomic.Bool
}

func (h *held) release() {
	if h.released.CompareAndSwap(false, true) {
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
func (s *Server) seat(ctx context.Context, w http.ResponseWriter, r *http.Request, info *requestInfo, user *identity.User) (_ context.Context, release func(), ok bool) {
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
	wait := s.RequestTimeout / 4
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/4)
	}
	seat, err := s.FlowControl.Acquire(ctx, class, min(s.width(r, info), class.MaxSeats()), wait)
	if err != nil {
		if errors.Is(err, flowcontrol.ErrTooMany) {
			tooMany(w)
		}
		return ctx, nil, false
	}
	holder := &held{seat: seat}
	if info.Verb == "watch" {
		ctx = context.WithValue(ctx, heldKey{}, holder)
	}
	return ctx, holder.release, true
}

// width estimates how many seats the request is worth: a list costs by the
// number of objects it goes through.
func (s *Server) width(r *http.Request, info *requestInfo) int {
	list := info.Verb == "list" || info.Verb == "watch" && r.URL.Query().Get("sendInitialEvents") == "true"
	if !list || info.Name != "" {
		return 1
	}
	res := s.Verbs.Lookup(schema.GroupResource{Group: info.GroupVersion.Group, Resource: info.Resource})
	if res == nil || res.Collection == nil {
		return 1
	}
	return max(1, min(maxListSeats, (res.Collection.Len()+objectsPerSeat-1)/objectsPerSeat))
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
