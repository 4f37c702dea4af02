package cache

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"

	"skiff/internal/apis"
	"skiff/internal/store"
)

// Bounds of the event window of one collection: at most maxEvents, and beyond
// minEvents only those younger than Window.
const (
	minEvents = 128
	maxEvents = 16384
)

// degree of the tree's nodes: wide enough that a scan stays in cache lines,
// narrow enough that copying one on write is cheap.
const degree = 32

// Collection is the objects of one resource. The fields are guarded by
// Cache.mu; methods that end in Locked need it held for writing.
type Collection struct {
	cache  *Cache
	prefix string
	decode Decoder
	index  map[string]func(apis.Object) string
	// keepStored makes entries keep their stored form once they are decoded;
	// fleeting is nil where they keep what they are decoded to.
	keepStored bool
	fleeting   *fleeting

	tree *btree.BTreeG[*Entry]
	// shared is a clone of tree that readers hold; nil once tree has changed.
	shared *btree.BTreeG[*Entry]

	// events after oldest, in order.
	events []*Event
	oldest int64

	watchers map[scopeKey][]*Watcher
	// fieldWatchers counts watchers with a Field scope, by field.
	fieldWatchers map[string]int
	closed        bool

	// pinned are trees that lists are being continued on.
	pinned []pin

	// bytes is the size of the stored values, received how many events came, and
	// fellBehind how many watchers were too slow.
	bytes, received int64
	fellBehind      atomic.Int64

	// changes counts what was applied; reading it takes no lock.
	changes atomic.Int64
}

// Stats say how much a collection holds, and what has passed through it.
type Stats struct {
	Objects int
	// Bytes is the size of the objects as they are stored.
	Bytes int64
	// Received are the events that came since the start; all of them were handed
	// to whoever watched for them.
	Received int64
	// FellBehind are the watchers that were cut off because they were too slow.
	FellBehind int64
	// Watchers are the present ones, and Window the greatest number of events that
	// are kept for them.
	Watchers, Window int
	// Revision is what the collection is known up to.
	Revision int64
}

// Stats returns the present numbers.
func (c *Collection) Stats() Stats {
	c.cache.mu.RLock()
	defer c.cache.mu.RUnlock()
	s := Stats{
		Objects: c.tree.Len(), Bytes: c.bytes, Received: c.received, FellBehind: c.fellBehind.Load(),
		Window: maxEvents, Revision: c.cache.mu.revision,
	}
	for _, list := range c.watchers {
		s.Watchers += len(list)
	}
	return s
}

// Watchers returns how many watchers an event of the object at key concerns,
// those by field aside.
func (c *Collection) Watchers(key string) int {
	c.cache.mu.RLock()
	defer c.cache.mu.RUnlock()
	n := len(c.watchers[scopeKey{}]) + len(c.watchers[scopeKey{"key", key}])
	if ns := c.namespaceOf(key); ns != "" {
		n += len(c.watchers[scopeKey{"namespace", ns}])
	}
	return n
}

// Changes returns a number that grows whenever the collection changes, before
// the change is acknowledged.
func (c *Collection) Changes() int64 { return c.changes.Load() }

type pin struct {
	revision int64
	tree     *btree.BTreeG[*Entry]
	at       time.Time
}

// Event is one change of one object. Old is nil when it was created; New is
// nil when it was deleted, and Last is then its last state with the revision
// of the deletion.
type Event struct {
	Revision       int64
	Old, New, Last *Entry
	at             time.Time

	left sync.Once
}

// Left returns the state before an update, with the update's revision: what a
// watcher is shown whose selection the object has left.
func (e *Event) Left() *Entry {
	e.left.Do(func() {
		if e.Last == nil {
			e.Last = e.Old.tombstone(e.Revision)
		}
	})
	return e.Last
}

// Entry returns the state that the event tells of.
func (e *Event) Entry() *Entry {
	if e.New != nil {
		return e.New
	}
	return e.Last
}

func less(a, b *Entry) bool { return a.Key < b.Key }

func newCollection(c *Cache, prefix string, decode Decoder, index map[string]func(apis.Object) string) *Collection {
	return &Collection{
		cache: c, prefix: prefix, decode: decode, index: index,
		tree:          btree.NewG(degree, less),
		watchers:      make(map[scopeKey][]*Watcher),
		fieldWatchers: make(map[string]int),
	}
}

// KeepStored makes the collection one that can be replaced: its entries keep
// their stored form, which is decoded anew then. It must be called before the
// collection is used.
func (c *Collection) KeepStored() {
	c.cache.mu.Lock()
	defer c.cache.mu.Unlock()
	c.keepStored = true
}

// Prefix returns the key prefix without trailing slash.
func (c *Collection) Prefix() string { return c.prefix }

// Key returns the key of an object; namespace is empty for cluster-scoped
// ones.
func (c *Collection) Key(namespace, name string) string {
	if namespace == "" {
		return c.prefix + "/" + name
	}
	return c.prefix + "/" + namespace + "/" + name
}

func (c *Collection) owns(key string) bool {
	return len(key) > len(c.prefix) && key[len(c.prefix)] == '/' && strings.HasPrefix(key, c.prefix)
}

func (c *Collection) loadLocked(kv store.KV) {
	defer c.changes.Add(1)
	c.putLocked(newEntry(c, kv, nil))
	c.shared = nil
}

// putLocked puts an entry in the place of an older one, which it returns.
func (c *Collection) putLocked(e *Entry) *Entry {
	old, found := c.tree.ReplaceOrInsert(e)
	c.bytes += int64(e.size)
	if found {
		c.bytes -= int64(old.size)
	}
	return old
}

// takeOverLocked fills an empty collection with what old holds, undecoded.
func (c *Collection) takeOverLocked(old *Collection) {
	c.oldest, c.received = old.oldest, old.received
	fresh := make(map[*Entry]*Entry, len(old.events))
	renew := func(e *Entry) *Entry {
		if e == nil {
			return nil
		}
		if have := fresh[e]; have != nil {
			return have
		}
		n := &Entry{Key: e.Key, Revision: e.Revision, Created: e.Created, collection: c, size: e.size}
		n.content.Store(&content{value: e.content.Load().value})
		fresh[e] = n
		return n
	}
	for _, ev := range old.events {
		renewed := &Event{Revision: ev.Revision, Old: renew(ev.Old), New: renew(ev.New), at: ev.at}
		if renewed.New == nil {
			renewed.Last = renewed.Old.tombstone(ev.Revision)
		}
		c.events = append(c.events, renewed)
	}
	old.tree.Ascend(func(e *Entry) bool {
		c.putLocked(renew(e))
		return true
	})
}

func (c *Collection) applyLocked(e *store.Event, now time.Time) {
	c.shared = nil
	defer c.changes.Add(1)
	ev := &Event{Revision: e.ModRevision, at: now}
	if e.Deleted {
		old, found := c.tree.Delete(&Entry{Key: e.Key})
		if !found {
			return
		}
		c.bytes -= int64(old.size)
		ev.Old, ev.Last = old, old.tombstone(e.ModRevision)
	} else {
		ev.New = newEntry(c, e.KV, e.Decoded)
		ev.Old = c.putLocked(ev.New)
	}
	c.received++
	c.events = append(c.events, ev)
	c.trimLocked(now)
	c.notifyLocked(ev)
}

func (c *Collection) trimLocked(now time.Time) {
	drop := 0
	for n := len(c.events); n-drop > minEvents; drop++ {
		if n-drop <= maxEvents && now.Sub(c.events[drop].at) < Window {
			break
		}
	}
	if drop == 0 {
		return
	}
	c.oldest = c.events[drop-1].Revision
	clear(c.events[:drop])
	c.events = c.events[drop:]
}

// Get returns the newest applied state of key, or nil.
func (c *Collection) Get(key string) *Entry {
	c.cache.mu.RLock()
	defer c.cache.mu.RUnlock()
	e, _ := c.tree.Get(&Entry{Key: key})
	return e
}

// Len returns the number of objects.
func (c *Collection) Len() int {
	c.cache.mu.RLock()
	defer c.cache.mu.RUnlock()
	return c.tree.Len()
}

// Snapshot is the collection at one revision.
type Snapshot struct {
	Revision int64
	tree     *btree.BTreeG[*Entry]
}

// Snapshot returns the newest applied state; reading it takes no lock.
func (c *Collection) Snapshot() Snapshot {
	c.cache.mu.RLock()
	if c.shared != nil {
		defer c.cache.mu.RUnlock()
		return Snapshot{c.cache.mu.revision, c.shared}
	}
	c.cache.mu.RUnlock()
	c.cache.mu.Lock()
	defer c.cache.mu.Unlock()
	return c.snapshotLocked()
}

func (c *Collection) snapshotLocked() Snapshot {
	if c.shared == nil {
		c.shared = c.tree.Clone()
	}
	return Snapshot{c.cache.mu.revision, c.shared}
}

// Pin keeps s for lists that continue at its revision, for one Window.
func (c *Collection) Pin(s Snapshot) {
	now := c.cache.clock.Now()
	c.cache.mu.Lock()
	defer c.cache.mu.Unlock()
	keep := c.pinned[:0]
	for _, p := range c.pinned {
		if now.Sub(p.at) < Window && p.revision != s.Revision {
			keep = append(keep, p)
		}
	}
	clear(c.pinned[len(keep):])
	c.pinned = append(keep, pin{s.Revision, s.tree, now})
}

// At returns the collection as it was at revision, if that is at hand in
// memory and not compacted.
func (c *Collection) At(revision int64) (Snapshot, bool) {
	c.cache.mu.Lock()
	defer c.cache.mu.Unlock()
	if revision < c.cache.mu.compacted {
		return Snapshot{}, false
	}
	for _, p := range c.pinned {
		if p.revision == revision {
			return Snapshot{revision, p.tree}, true
		}
	}
	newest := c.oldest
	if n := len(c.events); n > 0 {
		newest = c.events[n-1].Revision
	}
	if revision >= newest && revision <= c.cache.mu.revision {
		s := c.snapshotLocked()
		s.Revision = revision
		return s, true
	}
	if revision < c.oldest || revision > c.cache.mu.revision {
		return Snapshot{}, false
	}
	// Undo the events after revision on a private clone.
	t := c.tree.Clone()
	for i := len(c.events) - 1; i >= 0 && c.events[i].Revision > revision; i-- {
		ev := c.events[i]
		if ev.Old != nil {
			t.ReplaceOrInsert(ev.Old)
		} else {
			t.Delete(ev.New)
		}
	}
	return Snapshot{revision, t}, true
}

// Reconstruct reads the collection as it was at revision from the engine's
// history, and keeps it for lists that continue. The error is the engine's
// (*store.CompactedError when the history is gone).
func (c *Collection) Reconstruct(ctx context.Context, revision int64) (Snapshot, error) {
	t := btree.NewG(degree, less)
	_, err := c.cache.engine.Range(ctx, c.prefix+"/", store.RangeOptions{At: revision}, func(kv store.KV) error {
		t.ReplaceOrInsert(newEntry(c, kv, nil))
		return nil
	})
	if err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{revision, t}
	c.Pin(s)
	return s, nil
}

// Len returns the number of objects.
func (s Snapshot) Len() int { return s.tree.Len() }

// Get returns the entry of key, or nil.
func (s Snapshot) Get(key string) *Entry {
	e, _ := s.tree.Get(&Entry{Key: key})
	return e
}

// Ascend calls fn for each entry below prefix in key order, starting at from
// if that is greater, until fn returns false.
func (s Snapshot) Ascend(prefix, from string, fn func(*Entry) bool) {
	start := prefix
	if from > start {
		start = from
	}
	s.tree.AscendGreaterOrEqual(&Entry{Key: start}, func(e *Entry) bool {
		return strings.HasPrefix(e.Key, prefix) && fn(e)
	})
}
