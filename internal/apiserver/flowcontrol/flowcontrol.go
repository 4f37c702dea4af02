// Package flowcontrol keeps the server responsive when more is asked of it than
// it can do (API Priority and Fairness, KEP-1040). FlowSchemas say which
// priority level a request belongs to; each level has a number of seats, and
// requests that find none wait in the level's queues, which are served fairly.
//
// Nothing here has a goroutine of its own but the one that follows the
// configuration: a request runs through a level under that level's one lock,
// and whoever frees a seat hands it to the next who waits.
package flowcontrol

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"skiff/internal/identity"
)

// ErrTooMany is returned for requests that are refused: the level is full, or
// the request waited for too long.
var ErrTooMany = errors.New("too many requests, please try again later")

// Request is what FlowSchemas look at.
type Request struct {
	User *identity.User
	Verb string
	// Resource requests have a Resource, others a Path.
	Group, Resource, Subresource, Namespace string
	Path                                    string
}

// Controller divides the server's seats.
type Controller struct {
	clock   clock.WithDelayedExecution
	seats   int
	seed    maphash.Seed
	metrics *metrics

	config atomic.Pointer[config]
	// adjusting tells that the limits will be looked at again.
	adjusting atomic.Bool

	mu struct {
		sync.Mutex
		schemas map[string]*flowcontrolv1.FlowSchema
		levels  map[string]*flowcontrolv1.PriorityLevelConfiguration
		// running are the levels in use, and those that are gone but not empty.
		running map[string]*level
	}
	// changed wakes the follower.
	changed chan struct{}
}

// config is one immutable state of the configuration.
type config struct {
	// schemas by precedence; the last matches everything.
	schemas []*schema
}

// New returns a controller that shares out the given number of seats. It knows
// only the two mandatory levels until Follow.
func New(seats int, c clock.WithDelayedExecution) *Controller {
	ctl := &Controller{clock: c, seats: seats, seed: maphash.MakeSeed(), metrics: newMetrics(), changed: make(chan struct{}, 1)}
	ctl.mu.schemas = map[string]*flowcontrolv1.FlowSchema{}
	ctl.mu.levels = map[string]*flowcontrolv1.PriorityLevelConfiguration{}
	ctl.mu.running = map[string]*level{}
	ctl.digest()
	return ctl
}

// Class is where a request belongs.
type Class struct {
	schema *schema
	hash   uint64
}

// FlowSchemaUID and PriorityLevelUID identify the objects that classified the
// request; they are empty for mandatory ones that are not stored.
func (c *Class) FlowSchemaUID() types.UID    { return c.schema.uid }
func (c *Class) PriorityLevelUID() types.UID { return c.schema.level.uid() }

// Names returns the names of both, for logs.
func (c *Class) Names() (schema, level string) { return c.schema.name, c.schema.level.name }

// MaxSeats is the greatest width that the level allows a request.
func (c *Class) MaxSeats() int { return int(c.schema.level.maxSeats.Load()) }

// Classify finds the class of a request.
func (c *Controller) Classify(r *Request) Class {
	all := c.config.Load().schemas
	i := slices.IndexFunc(all, func(s *schema) bool { return s.matches(r) })
	if i < 0 {
		// Somebody who is in neither of the groups that everybody is in.
		i = len(all) - 1
	}
	s := all[i]
	var flow string
	switch s.distinguisher {
	case flowcontrolv1.FlowDistinguisherMethodByUserType:
		flow = r.User.Name
	case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
		flow = r.Namespace
	}
	return Class{schema: s, hash: maphash.String(c.seed, flow) ^ s.hash}
}

// Seat is the right to execute. It must be released once.
type Seat struct {
	class Class
	queue *queue
	width int
	start time.Time
	// trail are seats that stay taken for some time after the release.
	trail int
	extra time.Duration
}

// Trail says that the request goes on to cause work when it is over: so many of
// its seats stay taken for the time.
func (s *Seat) Trail(seats int, extra time.Duration) { s.trail, s.extra = min(seats, s.width), extra }

// Watched notes how many watchers there are of what a request of the class
// changes.
func (c *Class) Watched(watchers int) { c.schema.metrics.watchers.Observe(float64(watchers)) }

// Seats is how many there are to share out.
func (c *Controller) Seats() int { return c.seats }

// Acquire waits for a seat of the given width, at most until ctx ends. The
// error is ErrTooMany or the context's.
func (c *Controller) Acquire(ctx context.Context, class Class, width int, wait time.Duration) (Seat, error) {
	return class.schema.level.acquire(ctx, class, width, wait)
}

// Release frees the seat.
func (s *Seat) Release() { s.class.schema.level.release(s) }
