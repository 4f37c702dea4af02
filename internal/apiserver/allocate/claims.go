package allocate

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// pending is how long a reservation lasts of which nobody has heard whether its
// Service was stored: longer than a write can take.
const pending = 2 * time.Minute

// claims say who holds each address, or each port. Whoever uses them holds the
// Allocator's lock.
type claims[K comparable] struct {
	clock clock.PassiveClock
	by    map[K]*claim
}

// claim is what one owner has: a Service, or an IPAddress that is none of theirs.
type claim struct {
	owner types.UID
	// stored claims last until the owner goes; others are reservations.
	stored bool
	// writes are those that count on a reservation, the latest since then.
	writes int
	since  time.Time
}

func newClaims[K comparable](c clock.PassiveClock) claims[K] {
	return claims[K]{clock: c, by: map[K]*claim{}}
}

// on returns the claim on key, nil if that is free.
func (cs *claims[K]) on(key K) *claim {
	if c := cs.by[key]; c != nil && (c.stored || cs.clock.Since(c.since) <= pending) {
		return c
	}
	return nil
}

// free reports whether owner may have key.
func (cs *claims[K]) free(key K, owner types.UID) bool {
	c := cs.on(key)
	return c == nil || c.owner == owner
}

// reserve gives key, which nobody else holds, to owner for the time of a write.
// cancel, which is for writes that have stored nothing, takes it back unless
// another write of the same owner counts on it.
func (cs *claims[K]) reserve(owner types.UID, key K) (cancel func()) {
	c := cs.on(key)
	if c == nil {
		c = &claim{owner: owner}
		cs.by[key] = c
	}
	c.writes++
	c.since = cs.clock.Now()
	return func() {
		if c.writes--; c.writes == 0 && !c.stored && cs.by[key] == c {
			delete(cs.by, key)
		}
	}
}

// store notes that owner is stored with keys.
func (cs *claims[K]) store(owner types.UID, keys ...K) {
	for _, key := range keys {
		cs.by[key] = &claim{owner: owner, stored: true}
	}
}

// drop notes that owner is no longer stored with keys.
func (cs *claims[K]) drop(owner types.UID, keys ...K) {
	for _, key := range keys {
		if c := cs.by[key]; c != nil && c.owner == owner {
			delete(cs.by, key)
		}
	}
}
