package pebble

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"skiff/internal/store"
)

// expireAtOnce is how many expired keys are removed in one go.
const expireAtOnce = 256

// expirer knows the nearest expiry, in milliseconds since 1970. A key that was
// renewed may leave it too early; that costs one look.
type expirer struct {
	mu      sync.Mutex
	nearest int64
	// sooner tells the loop that nearest was lowered; it has room for one.
	sooner chan struct{}
}

func (x *expirer) init() {
	x.nearest = 0 // look at once: keys may have expired while nothing ran
	x.sooner = make(chan struct{}, 1)
}

// at says that a key expires at a time.
func (x *expirer) at(expiry int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if expiry >= x.nearest {
		return
	}
	x.nearest = expiry
	select {
	case x.sooner <- struct{}{}:
	default:
	}
}

// expire removes keys when their time has come, with a single timer.
func (e *Engine) expire() {
	x := &e.expiry
	for {
		x.mu.Lock()
		nearest := x.nearest
		x.mu.Unlock()
		wait := time.Duration(math.MaxInt64)
		if nearest != math.MaxInt64 {
			wait = time.UnixMilli(nearest).Sub(e.o.Clock.Now())
		}
		if wait > 0 {
			timer := e.o.Clock.NewTimer(wait)
			select {
			case <-timer.C():
			case <-x.sooner:
			case <-e.stop.Done():
				timer.Stop()
				return
			}
			timer.Stop()
			continue
		}
		if e.stop.Err() != nil {
			return
		}
		if err := e.removeExpired(); err != nil {
			e.o.Log.Error("Removing expired keys failed", "err", err)
			x.at(e.o.Clock.Now().Add(10 * time.Second).UnixMilli())
		}
	}
}

// removeExpired removes what has expired, each key in a transaction of its own,
// and sets the nearest expiry of the others.
func (e *Engine) removeExpired() error {
	x := &e.expiry
	x.mu.Lock()
	x.nearest = math.MaxInt64 // a key written from here on lowers it again
	x.mu.Unlock()
	for {
		due, next, err := e.due()
		if err != nil || len(due) == 0 {
			x.at(next)
			return err
		}
		var g sync.WaitGroup
		errs := make([]error, len(due))
		for i, op := range due {
			g.Go(func() {
				_, err := e.Txn(context.Background(), op)
				if conflict := (*store.ConflictError)(nil); !errors.As(err, &conflict) {
					errs[i] = err // a conflict means that the key was renewed
				}
			})
		}
		g.Wait()
		if err := errors.Join(errs...); errors.Is(err, store.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// due returns the removals of keys that have expired, and when the next ones do.
func (e *Engine) due() (ops []store.Op, next int64, err error) {
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindExpiry}, UpperBound: []byte{kindExpiry + 1}})
	if err != nil {
		return nil, math.MaxInt64, err
	}
	now := e.o.Clock.Now().UnixMilli()
	next = math.MaxInt64
	for ok := it.First(); ok && len(ops) < expireAtOnce; ok = it.Next() {
		expiry, key, err := decodeExpiryKey(it.Key())
		if err != nil {
			return nil, next, errors.Join(err, it.Close())
		}
		if expiry > now {
			next = expiry
			break
		}
		raw, closer, err := e.db.Get(appendCurrentKey(nil, key))
		if errors.Is(err, pebble.ErrNotFound) {
			continue // removed since the iterator was made
		}
		if err != nil {
			return nil, next, errors.Join(err, it.Close())
		}
		cur, err := decodeCurrent(raw)
		if err = errors.Join(err, closer.Close()); err != nil {
			return nil, next, errors.Join(err, it.Close())
		}
		if cur.expiry == expiry {
			ops = append(ops, store.Op{Key: key, Delete: true, Expect: cur.mod})
		}
	}
	return ops, next, errors.Join(it.Error(), it.Close())
}
