package cache

import (
	"context"
	"errors"
	"sync"

	"skiff/internal/store"
)

// maxQueue is how many events a watcher may lag behind before it is cut off;
// the client then resumes from its last resource version or lists anew.
const maxQueue = 1 << 16

// ErrFellBehind is what Next returns to a watcher that was too slow.
var ErrFellBehind = errors.New("the watcher fell too far behind")

// ErrClosed is what Next returns when the collection is gone or the watcher
// was stopped.
var ErrClosed = errors.New("the watch is over")

// Scope narrows a watch before any event reaches it. The zero value is the
// whole collection. At most one of Key and Field is used, Key first; Namespace
// counts when both are empty.
type Scope struct {
	Namespace string
	// Key is the key of a single object.
	Key string
	// Field and Value select objects whose indexed field has the value, now or
	// before the event.
	Field, Value string
}

type scopeKey struct{ kind, value string }

func (s Scope) key() scopeKey {
	switch {
	case s.Key != "":
		return scopeKey{"key", s.Key}
	case s.Field != "":
		return scopeKey{s.Field, s.Value}
	case s.Namespace != "":
		return scopeKey{"namespace", s.Namespace}
	}
	return scopeKey{}
}

// Watcher is a queue of the events of one scope.
type Watcher struct {
	collection *Collection
	scope      Scope
	wake       chan struct{}

	mu struct {
		sync.Mutex
		queue []*Event
		err   error
	}
}

// Watch returns a watcher of the events after revision, or
// *store.CompactedError if they are no longer at hand.
func (c *Collection) Watch(scope Scope, after int64) (*Watcher, error) {
	c.cache.mu.Lock()
	defer c.cache.mu.Unlock()
	if after < c.oldest {
		return nil, &store.CompactedError{Requested: after, Oldest: c.oldest}
	}
	w := c.addWatcherLocked(scope)
	key := scope.key()
	// The first event after `after`: events are ordered, watches mostly start
	// near the end.
	i := len(c.events)
	for i > 0 && c.events[i-1].Revision > after {
		i--
	}
	for _, ev := range c.events[i:] {
		if c.concerns(ev, key) {
			w.mu.queue = append(w.mu.queue, ev)
		}
	}
	if len(w.mu.queue) > 0 {
		w.wake <- struct{}{}
	}
	return w, nil
}

// SnapshotAndWatch returns the newest state and a watcher of everything after
// it.
func (c *Collection) SnapshotAndWatch(scope Scope) (Snapshot, *Watcher) {
	c.cache.mu.Lock()
	defer c.cache.mu.Unlock()
	return c.snapshotLocked(), c.addWatcherLocked(scope)
}

// HasIndex reports whether watches can be narrowed by field.
func (c *Collection) HasIndex(field string) bool { return c.index[field] != nil }

func (c *Collection) addWatcherLocked(scope Scope) *Watcher {
	w := &Watcher{collection: c, scope: scope, wake: make(chan struct{}, 1)}
	if c.closed {
		w.mu.err = ErrClosed
		return w
	}
	key := scope.key()
	c.watchers[key] = append(c.watchers[key], w)
	if c.index[key.kind] != nil {
		c.fieldWatchers[key.kind]++
	}
	return w
}

// Stop ends the watch and frees what it holds.
func (w *Watcher) Stop() {
	c := w.collection
	key := w.scope.key()
	c.cache.mu.Lock()
	list := c.watchers[key]
	for i, x := range list {
		if x == w {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			c.watchers[key] = list[:len(list)-1]
			if len(list) == 1 {
				delete(c.watchers, key)
			}
			if c.index[key.kind] != nil {
				c.fieldWatchers[key.kind]--
			}
			break
		}
	}
	c.cache.mu.Unlock()
	w.end(ErrClosed)
}

// Next returns the events that came since the last call; it waits until there
// are some. The error is ErrFellBehind, ErrClosed or the context's.
func (w *Watcher) Next(ctx context.Context) ([]*Event, error) {
	for {
		if queue, err := w.Take(); len(queue) > 0 || err != nil {
			return queue, err
		}
		if err := w.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

// Take returns the events that came since the last call, without waiting. All
// events up to any snapshot that was taken before are among those taken so far.
func (w *Watcher) Take() ([]*Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	queue := w.mu.queue
	w.mu.queue = nil
	if len(queue) > 0 {
		return queue, nil
	}
	return nil, w.mu.err
}

// Wait waits until there may be something to take. One goroutine may wait, or
// call Next, at a time.
func (w *Watcher) Wait(ctx context.Context) error {
	select {
	case <-w.wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Progress returns the revision up to which Next has returned everything; ok
// is false while events are waiting.
func (w *Watcher) Progress() (revision int64, ok bool) {
	c := w.collection.cache
	c.mu.RLock()
	defer c.mu.RUnlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	return c.mu.revision, len(w.mu.queue) == 0 && w.mu.err == nil
}

func (w *Watcher) push(ev *Event) {
	w.mu.Lock()
	if w.mu.err == nil {
		if len(w.mu.queue) >= maxQueue {
			w.mu.queue, w.mu.err = nil, ErrFellBehind
			w.collection.fellBehind.Add(1)
		} else {
			w.mu.queue = append(w.mu.queue, ev)
		}
	}
	w.mu.Unlock()
	w.signal()
}

func (w *Watcher) end(err error) {
	w.mu.Lock()
	if w.mu.err == nil {
		w.mu.err = err
	}
	w.mu.Unlock()
	w.signal()
}

func (w *Watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// notifyLocked hands ev to every watcher whose scope it concerns.
func (c *Collection) notifyLocked(ev *Event) {
	push := func(key scopeKey) {
		for _, w := range c.watchers[key] {
			w.push(ev)
		}
	}
	push(scopeKey{})
	key := ev.Entry().Key
	push(scopeKey{"key", key})
	if ns := c.namespaceOf(key); ns != "" {
		push(scopeKey{"namespace", ns})
	}
	for field, count := range c.fieldWatchers {
		if count == 0 {
			continue
		}
		before, after := c.indexed(ev.Old, field), c.indexed(ev.New, field)
		push(scopeKey{field, after})
		if before != after {
			push(scopeKey{field, before})
		}
	}
}

func (c *Collection) concerns(ev *Event, scope scopeKey) bool {
	switch scope.kind {
	case "":
		return true
	case "key":
		return ev.Entry().Key == scope.value
	case "namespace":
		return c.namespaceOf(ev.Entry().Key) == scope.value
	}
	return (ev.Old != nil && c.indexed(ev.Old, scope.kind) == scope.value) ||
		(ev.New != nil && c.indexed(ev.New, scope.kind) == scope.value)
}

// indexed returns the entry's value of an indexed field; a value that no
// selector has when there is no entry.
func (c *Collection) indexed(e *Entry, field string) string {
	if e == nil {
		return "\x00"
	}
	obj, err := e.Object()
	if err != nil {
		return "\x00"
	}
	return c.index[field](obj)
}

// namespaceOf returns the part of key between prefix and name; empty for
// cluster-scoped objects.
func (c *Collection) namespaceOf(key string) string {
	rest := key[len(c.prefix)+1:]
	for i := 0; i < len(rest); i++ {
		if rest[i] == '/' {
			return rest[:i]
		}
	}
	return ""
}

func (c *Collection) closeLocked() {
	c.closed = true
	for _, list := range c.watchers {
		for _, w := range list {
			w.end(ErrClosed)
		}
	}
}
