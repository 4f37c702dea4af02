// Package expect keeps a controller from acting on a cache that has not yet
// seen what the controller itself did: an owner whose last writes are not in
// the cache is left alone until they are.
package expect

import (
	"context"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// patience is how long an owner waits for a write that the cache never
	// shows (upstream's ExpectationsTimeout).
	patience = 5 * time.Minute
	// lag is how long an index may be behind the objects.
	lag = 10 * time.Millisecond
)

// Tracker remembers writes to objects of one kind, by the owner they were made
// for. It relies on resource versions being ordered within a kind (KEP-5504)
// and events coming in that order.
type Tracker struct {
	clock clock.PassiveClock

	mu     sync.Mutex
	seen   uint64
	owners map[types.NamespacedName]*pending
}

type pending struct {
	version uint64
	created map[types.UID]types.NamespacedName
	deleted map[types.UID]struct{}
	since   time.Time
}

// New returns an empty Tracker.
func New(c clock.PassiveClock) *Tracker {
	return &Tracker{clock: c, owners: map[types.NamespacedName]*pending{}}
}

// Saw is called with every object that an event brings, after the cache has it.
func (t *Tracker) Saw(o crclient.Object) {
	v, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = max(t.seen, v)
}

// Created is called with the answer to a create.
func (t *Tracker) Created(owner types.NamespacedName, o crclient.Object) {
	t.Wrote(owner, o)
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pending(owner)
	if p.created == nil {
		p.created = map[types.UID]types.NamespacedName{}
	}
	p.created[o.GetUID()] = crclient.ObjectKeyFromObject(o)
}

// Wrote is called with the answer to an update or patch.
func (t *Tracker) Wrote(owner types.NamespacedName, o crclient.Object) {
	v, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pending(owner)
	p.version = max(p.version, v)
}

// Deleted is called after a successful delete.
func (t *Tracker) Deleted(owner types.NamespacedName, uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pending(owner)
	if p.deleted == nil {
		p.deleted = map[types.UID]struct{}{}
	}
	p.deleted[uid] = struct{}{}
}

func (t *Tracker) pending(owner types.NamespacedName) *pending {
	p := t.owners[owner]
	if p == nil {
		p = &pending{}
		t.owners[owner] = p
	}
	p.since = t.clock.Now()
	return p
}

// Forget drops everything about an owner that is gone.
func (t *Tracker) Forget(owner types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.owners, owner)
}

// Wait returns 0 if found has all that was written for the owner, and otherwise
// how long to wait for it at most; the event that brings it comes earlier.
// exists says whether the cache has an object of that name: what exists and
// is not found is on its way into an index.
func Wait[T crclient.Object](t *Tracker, owner types.NamespacedName, found []T, exists func(types.NamespacedName) bool) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.owners[owner]
	if p == nil {
		return 0
	}
	alive := map[types.UID]bool{}
	for _, o := range found {
		alive[o.GetUID()] = o.GetDeletionTimestamp() == nil
	}
	late := false
	for uid, name := range p.created {
		if _, ok := alive[uid]; ok {
			delete(p.created, uid)
		} else if p.version <= t.seen {
			if exists(name) {
				late = true
			} else {
				delete(p.created, uid)
			}
		}
	}
	for uid := range p.deleted {
		if !alive[uid] {
			delete(p.deleted, uid)
		}
	}
	left := patience - t.clock.Since(p.since)
	switch {
	case left <= 0, p.version <= t.seen && len(p.created) == 0 && len(p.deleted) == 0:
		delete(t.owners, owner)
		return 0
	case late:
		return lag
	}
	return left
}

// Changes are the writes that one owner's objects need.
type Changes[T crclient.Object] struct{ Create, Update, Remove []T }

// Apply carries out the changes for an owner, until one of them fails.
func Apply[T crclient.Object](ctx context.Context, t *Tracker, c crclient.Client, owner types.NamespacedName, changes Changes[T]) error {
	for _, o := range changes.Create {
		if err := c.Create(ctx, o); err != nil {
			return err
		}
		t.Created(owner, o)
	}
	for _, o := range changes.Update {
		if err := c.Update(ctx, o); err != nil {
			return err
		}
		t.Wrote(owner, o)
	}
	for _, o := range changes.Remove {
		uid := o.GetUID()
		if err := c.Delete(ctx, o, crclient.Preconditions{UID: &uid}); crclient.IgnoreNotFound(err) != nil {
			return err
		}
		t.Deleted(owner, uid)
	}
	return nil
}
