// Package cache is the one copy of the cluster's state that a server process
// holds: for each resource an ordered tree of immutable entries, a window of
// recent events, and the watchers. It is filled by a single watch on the
// engine, so it passes through exactly the revisions that the engine did.
//
// Invariants:
//
//  1. Everything at or below Revision is applied, nothing above it is visible.
//  2. An Entry and the object in it never change once they are visible.
//  3. A watcher gets every event of its scope after its start, once, in order,
//     or is told that it fell behind.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"skiff/internal/apis"
	"skiff/internal/store"
)

// Root is the key prefix below which all API objects lie (upstream's default).
const Root = "/registry/"

// Window is how long events are kept for watches that resume, and history for
// lists at an exact revision (upstream's etcd compaction interval).
const Window = 5 * time.Minute

// Decoder makes the object of a stored value; it does not set the resource
// version.
type Decoder func(value []byte) (apis.Object, error)

// Cache follows one engine.
type Cache struct {
	engine store.Engine
	clock  clock.WithTicker
	log    *slog.Logger

	mu struct {
		sync.RWMutex
		collections map[string]*Collection
		loaded      bool
		revision    int64
		// compacted is what At does not look behind.
		compacted int64
		// advanced is closed and replaced whenever revision grows.
		advanced chan struct{}
	}
}

// New makes a cache of engine's state. It is empty until Load.
func New(engine store.Engine, clk clock.WithTicker, log *slog.Logger) *Cache {
	c := &Cache{engine: engine, clock: clk, log: log}
	c.mu.collections = make(map[string]*Collection)
	c.mu.advanced = make(chan struct{})
	return c
}

// Add makes the collection of the keys below prefix (without trailing slash).
// When the cache is loaded already (a custom resource), the collection is
// filled before Add returns. Index names the fields by which watches can be
// narrowed at no cost for others.
func (c *Cache) Add(ctx context.Context, prefix string, decode Decoder, index map[string]func(apis.Object) string) (*Collection, error) {
	col := newCollection(c, prefix, decode, index)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, dup := c.mu.collections[prefix]; dup {
		return nil, fmt.Errorf("a collection for %s exists already", prefix)
	}
	if c.mu.loaded {
		_, err := c.engine.Range(ctx, prefix+"/", store.RangeOptions{At: c.mu.revision}, func(kv store.KV) error {
			col.loadLocked(kv)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("loading %s: %w", prefix, err)
		}
		col.oldest = c.mu.revision
	}
	c.mu.collections[prefix] = col
	return col, nil
}

// Replace puts a collection in the place of the one at prefix, with the same
// stored objects and events, which decode reads anew: it must be one that keeps
// them (KeepStored). Watchers of the old one end; they may go on with the new one
// where they were.
func (c *Cache) Replace(prefix string, decode Decoder, index map[string]func(apis.Object) string) (*Collection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.mu.collections[prefix]
	if old == nil {
		return nil, fmt.Errorf("there is no collection for %s to replace", prefix)
	}
	if !old.keepStored {
		return nil, fmt.Errorf("the collection for %s does not keep what could be read anew", prefix)
	}
	col := newCollection(c, prefix, decode, index)
	col.keepStored = true
	col.takeOverLocked(old)
	c.mu.collections[prefix] = col
	old.closeLocked()
	return col, nil
}

// Remove forgets a collection; its watchers end.
func (c *Cache) Remove(prefix string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if col := c.mu.collections[prefix]; col != nil {
		delete(c.mu.collections, prefix)
		col.closeLocked()
	}
}

// Load reads the whole state from the engine.
func (c *Cache) Load(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	rev, err := c.engine.Range(ctx, Root, store.RangeOptions{}, func(kv store.KV) error {
		if col := c.findLocked(kv.Key); col != nil {
			col.loadLocked(kv)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("loading the cluster's state: %w", err)
	}
	for _, col := range c.mu.collections {
		col.oldest = rev
	}
	c.mu.loaded = true
	c.advanceLocked(rev)
	return nil
}

// Run applies the engine's changes until ctx ends. Load must have returned.
// History older than Window is compacted.
func (c *Cache) Run(ctx context.Context) error {
	go c.compact(ctx)
	for {
		err := c.engine.Watch(ctx, Root, c.Revision(), func(b store.Batch) error {
			c.apply(b)
			return nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var compacted *store.CompactedError
		if errors.As(err, &compacted) {
			// The engine moved on without us (an outside etcd after a long
			// partition): what was missed cannot be replayed, so the process
			// must start afresh.
			return fmt.Errorf("following the store: %w", err)
		}
		c.log.Warn("watch on the store broke off; resuming", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.clock.After(200 * time.Millisecond):
		}
	}
}

// compact drops history that left the window. It looks at the revision of one
// Window ago, so it does nothing while nothing is written.
func (c *Cache) compact(ctx context.Context) {
	ticker := c.clock.NewTicker(Window)
	defer ticker.Stop()
	var before int64
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		now := c.Revision()
		if before > 0 && before < now {
			if err := c.Compact(ctx, before); err != nil && ctx.Err() == nil {
				c.log.Warn("compacting the store failed", "revision", before, "error", err)
			}
		}
		before = now
	}
}

// Compact drops the history of before revision, in the engine and at hand: a
// list does not continue there any more. Watches go on from recent events all
// the same.
func (c *Cache) Compact(ctx context.Context, revision int64) error {
	if err := c.engine.Compact(ctx, revision); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.compacted = max(c.mu.compacted, revision)
	for _, col := range c.mu.collections {
		col.pinned = slices.DeleteFunc(col.pinned, func(p pin) bool { return p.revision < revision })
	}
	return nil
}

func (c *Cache) apply(b store.Batch) {
	now := c.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	var last *Collection
	for i := range b.Events {
		e := &b.Events[i]
		if last == nil || !last.owns(e.Key) {
			last = c.findLocked(e.Key)
		}
		if last != nil {
			last.applyLocked(e, now)
		}
	}
	c.advanceLocked(b.Revision)
}

func (c *Cache) advanceLocked(rev int64) {
	if rev <= c.mu.revision {
		return
	}
	c.mu.revision = rev
	close(c.mu.advanced)
	c.mu.advanced = make(chan struct{})
}

// findLocked returns the collection that key belongs to, the one with the
// longest prefix.
func (c *Cache) findLocked(key string) *Collection {
	for p := key; ; {
		i := strings.LastIndexByte(p, '/')
		if i <= 0 {
			return nil
		}
		p = p[:i]
		if col := c.mu.collections[p]; col != nil {
			return col
		}
	}
}

// Revision is the newest revision that is applied.
func (c *Cache) Revision() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.mu.revision
}

// WaitFor returns once rev is applied.
func (c *Cache) WaitFor(ctx context.Context, rev int64) error {
	for {
		c.mu.RLock()
		have, advanced := c.mu.revision, c.mu.advanced
		c.mu.RUnlock()
		if have >= rev {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Sync waits until everything that was acknowledged anywhere before the call
// is applied, which makes the reads after it linearizable.
func (c *Cache) Sync(ctx context.Context) error {
	rev, err := c.engine.Revision(ctx)
	if err != nil {
		return err
	}
	return c.WaitFor(ctx, rev)
}
