package pebble

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"k8s.io/utils/clock"

	"skiff/internal/store"
)

const (
	// The hub keeps about this much of the recent past for watchers that are
	// behind; whoever is further behind reads the log on disk.
	recentTxns  = 4096
	recentBytes = 8 << 20
	// A read of the log on disk hands over at most this much at once.
	replayTxns  = 1024
	replayBytes = 4 << 20
	// progressDelay is how long a watcher may not know that the revision grew
	// without an event for it. Engine.Revision cuts it short.
	progressDelay = time.Second
)

// hub keeps the newest durable transactions in memory and wakes watchers. A
// watcher is a cursor of its own into them, so that a slow one holds up nobody.
type hub struct {
	clock clock.WithTicker
	stop  context.Context

	mu sync.Mutex
	// recent holds consecutive revisions, the last of which is newest.
	recent   []txn
	bytes    int
	newest   int64
	watchers map[*watcher]struct{}
	// telling is set while a delayed progress report is under way.
	telling bool
}

type watcher struct {
	prefix string
	// wake has room for one.
	wake chan struct{}
	// told is the newest revision the watcher took or was woken for.
	told int64
}

func (h *hub) init(newest int64, c clock.WithTicker, stop context.Context) {
	h.newest, h.clock, h.stop = newest, c, stop
	h.watchers = map[*watcher]struct{}{}
}

// publish adds the transactions of a durable group and wakes whom they concern.
func (h *hub) publish(g group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	added := len(h.recent)
	for _, w := range g.writes {
		if w.err == nil && len(w.txn.events) > 0 {
			h.recent = append(h.recent, w.txn)
			h.bytes += w.txn.size
		}
	}
	h.newest = g.revision
	behind := false
	for w := range h.watchers {
		if concerns(h.recent[added:], w.prefix) {
			h.wake(w)
		} else {
			behind = true
		}
	}
	if behind && !h.telling {
		h.telling = true
		go h.tellLater()
	}
	h.trim()
}

func concerns(txns []txn, prefix string) bool {
	for _, t := range txns {
		for i := range t.events {
			if strings.HasPrefix(t.events[i].Key, prefix) {
				return true
			}
		}
	}
	return false
}

// trim drops the older half of recent when it is full. It copies, because
// watchers read slices of the old array without the lock.
func (h *hub) trim() {
	if len(h.recent) <= recentTxns && h.bytes <= recentBytes {
		return
	}
	keep, bytes := 0, 0
	for keep < len(h.recent) && keep < recentTxns/2 && bytes < recentBytes/2 {
		keep++
		bytes += h.recent[len(h.recent)-keep].size
	}
	recent := make([]txn, keep, max(keep, recentTxns))
	copy(recent, h.recent[len(h.recent)-keep:])
	h.recent, h.bytes = recent, bytes
}

func (h *hub) tellLater() {
	select {
	case <-h.clock.After(progressDelay):
	case <-h.stop.Done():
		return
	}
	h.mu.Lock()
	h.telling = false
	newest := h.newest
	h.mu.Unlock()
	h.progress(newest)
}

// progress wakes all watchers that have not been told about revision.
func (h *hub) progress(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		if w.told < revision {
			h.wake(w)
		}
	}
}

func (h *hub) wake(w *watcher) {
	w.told = h.newest
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (h *hub) add(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers[w] = struct{}{}
}

func (h *hub) remove(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
}

// since returns the transactions after a revision, which must not be changed,
// and the newest revision. It returns false if they are not all in memory.
func (h *hub) since(after int64, w *watcher) ([]txn, int64, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.told = h.newest
	n := h.newest - after
	if n <= 0 {
		return nil, h.newest, true
	}
	if n > int64(len(h.recent)) {
		return nil, h.newest, false
	}
	return h.recent[int64(len(h.recent))-n:], h.newest, true
}

// Watch implements store.Engine. A batch may span many revisions.
func (e *Engine) Watch(ctx context.Context, prefix string, after int64, fn func(store.Batch) error) error {
	if err := e.begin(); err != nil {
		return err
	}
	defer e.uses.Done()
	// A watch from the oldest revision itself is served, as etcd does.
	if oldest := e.compacted.Load(); after+1 < oldest {
		return &store.CompactedError{Requested: after + 1, Oldest: oldest}
	}
	w := &watcher{prefix: prefix, wake: make(chan struct{}, 1)}
	e.hub.add(w)
	defer e.hub.remove(w)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.stop.Err() != nil {
			return store.ErrClosed
		}
		txns, newest, recent := e.hub.since(after, w)
		if newest <= after {
			select {
			case <-w.wake:
			case <-ctx.Done():
			case <-e.stop.Done():
			}
			continue
		}
		if !recent {
			var err error
			if txns, newest, err = e.replay(ctx, prefix, after, newest); err != nil {
				return err
			}
		}
		if err := fn(store.Batch{Revision: newest, Events: filter(txns, prefix)}); err != nil {
			return err
		}
		after = newest
	}
}

// filter returns the events below prefix.
func filter(txns []txn, prefix string) []store.Event {
	n := 0
	for _, t := range txns {
		for i := range t.events {
			if strings.HasPrefix(t.events[i].Key, prefix) {
				n++
			}
		}
	}
	if n == 0 {
		return nil
	}
	if len(txns) == 1 && n == len(txns[0].events) {
		return txns[0].events
	}
	events := make([]store.Event, 0, n)
	for _, t := range txns {
		for i := range t.events {
			if strings.HasPrefix(t.events[i].Key, prefix) {
				events = append(events, t.events[i])
			}
		}
	}
	return events
}

// replay reads transactions after a revision from disk, up to newest at most,
// and returns the events below prefix and the last revision it read.
func (e *Engine) replay(ctx context.Context, prefix string, after, newest int64) ([]txn, int64, error) {
	s := e.db.NewSnapshot()
	defer s.Close()
	if oldest := e.compacted.Load(); after+1 < oldest {
		return nil, 0, &store.CompactedError{Requested: after + 1, Oldest: oldest}
	}
	it, err := s.NewIterWithContext(ctx, &pebble.IterOptions{
		LowerBound: appendLogKey(nil, after+1), UpperBound: appendLogKey(nil, newest+1),
	})
	if err != nil {
		return nil, 0, readError(err)
	}
	defer it.Close()
	var txns []txn
	size := 0
	last := max(after, e.start)
	for ok := it.First(); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		revision, err := decodeLogKey(it.Key())
		if err == nil && revision != last+1 {
			err = fmt.Errorf("revision %d is missing: %w", last+1, errRecord)
		}
		if err != nil {
			return nil, 0, readError(err)
		}
		last = revision
		raw, err := it.ValueAndErr()
		if err != nil {
			return nil, 0, readError(err)
		}
		t := txn{revision: revision}
		var failed error
		err = decodeLog(raw, func(c change) {
			if failed == nil && strings.HasPrefix(c.key, prefix) {
				var event store.Event
				event, failed = readEvent(s, c, revision)
				t.events = append(t.events, event)
				size += len(event.Key) + len(event.Value)
			}
		})
		if err = errors.Join(err, failed); err != nil {
			return nil, 0, readError(fmt.Errorf("revision %d: %w", revision, err))
		}
		txns = append(txns, t)
		if len(txns) == replayTxns || size >= replayBytes {
			return txns, last, nil
		}
	}
	if err := it.Error(); err != nil {
		return nil, 0, readError(err)
	}
	if last != max(newest, e.start) {
		return nil, 0, readError(fmt.Errorf("revision %d is missing: %w", last+1, errRecord))
	}
	return txns, newest, nil
}

// readEvent reads the version that a change made.
func readEvent(s *pebble.Snapshot, c change, revision int64) (store.Event, error) {
	event := store.Event{KV: store.KV{Key: c.key, CreateRevision: c.create, ModRevision: revision}}
	if c.create == 0 {
		event.Deleted = true
		return event, nil
	}
	raw, closer, err := s.Get(appendVersionKey(nil, c.key, revision))
	if err != nil {
		return event, fmt.Errorf("key %s: %w", c.key, err)
	}
	_, value, err := splitVersion(raw)
	event.Value = append([]byte{}, value...)
	return event, errors.Join(err, closer.Close())
}
