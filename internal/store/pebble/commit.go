package pebble

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"skiff/internal/store"
)

const (
	// A group ends at whichever of these it reaches first.
	maxGroupWrites = 512
	maxGroupBytes  = 1 << 20
	// maxTxnBytes bounds one transaction, far above what an API server sends.
	maxTxnBytes = 64 << 20
	// queued is how many writers may wait for the committer without blocking,
	// and inflight how many groups may wait for the disk.
	queued   = 1024
	inflight = 64
)

// committer turns transactions into durable groups, in two steps that overlap:
// commit checks and writes, sync waits for the disk and answers.
type committer struct {
	e     *Engine
	queue chan *write
	// syncing holds the written groups in order.
	syncing chan group
	writes  sync.Pool

	// failure is set once the database can no longer be written; whatever
	// comes after is refused with it.
	failure atomic.Pointer[error]

	// What follows belongs to commit.

	// revision is the newest one given out.
	revision int64
	// keys is how the writes so far leave every key that exists, so that
	// checking a condition reads no disk. It is ahead of what is durable.
	keys map[string]current
	// nearest is the first expiry in the group.
	nearest   int64
	key       []byte
	changes   []byte
	replacing []current
}

// write is one transaction on its way.
type write struct {
	ops  []store.Op
	size int
	txn  txn
	err  error
	done chan struct{}
}

// txn is a transaction as watchers see it.
type txn struct {
	revision int64
	events   []store.Event
	size     int
}

// group is what one sync makes durable.
type group struct {
	// batch is nil if nothing was changed.
	batch    *pebble.Batch
	writes   []*write
	revision int64
}

func (c *committer) init(e *Engine, keys map[string]current) {
	c.e = e
	c.keys = keys
	c.revision = e.durable.Load()
	c.queue = make(chan *write, queued)
	c.syncing = make(chan group, inflight)
	c.writes.New = func() any { return &write{done: make(chan struct{}, 1)} }
}

// Txn implements store.Engine. If ctx ends first, the outcome is unknown.
func (e *Engine) Txn(ctx context.Context, ops ...store.Op) (int64, error) {
	if err := store.CheckOps(ops); err != nil {
		return 0, err
	}
	size := sizeOf(ops)
	if size > maxTxnBytes {
		return 0, fmt.Errorf("the transaction has %d bytes; at most %d are allowed", size, maxTxnBytes)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := e.begin(); err != nil {
		return 0, err
	}
	defer e.uses.Done()
	w := e.committer.writes.Get().(*write)
	w.ops, w.size = ops, size
	select {
	case e.committer.queue <- w:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		return 0, ctx.Err() // w stays with the committer
	}
	revision, err := w.txn.revision, w.err
	*w = write{done: w.done}
	e.committer.writes.Put(w)
	return revision, err
}

// sizeOf estimates what ops will write, in bytes.
func sizeOf(ops []store.Op) int {
	size := 0
	for i := range ops {
		size += 3*len(ops[i].Key) + len(ops[i].Value) + 64
	}
	return size
}

// commit runs until the queue is closed.
func (c *committer) commit() {
	defer close(c.syncing)
	for w := range c.queue {
		g := group{writes: append(make([]*write, 0, len(c.queue)+1), w)}
		for size := w.size; size < maxGroupBytes && len(g.writes) < maxGroupWrites; {
			select {
			case next, ok := <-c.queue:
				if !ok {
					size = maxGroupBytes
					break
				}
				g.writes = append(g.writes, next)
				size += next.size
				continue
			default:
			}
			break
		}
		c.write(&g)
		c.syncing <- g
	}
}

// write checks the writes of a group one after the other and writes those that
// pass. A write that fails is answered together with the others, since what it
// conflicts with may not be durable yet.
func (c *committer) write(g *group) {
	batch := c.e.db.NewBatch()
	c.nearest = math.MaxInt64
	for _, w := range g.writes {
		if failure := c.failure.Load(); failure != nil {
			w.err = *failure
			continue
		}
		w.err = c.stage(batch, w)
	}
	g.revision = c.revision
	if batch.Empty() {
		batch.Close()
		return
	}
	if err := c.apply(batch); err != nil {
		c.fail(err)
		for _, w := range g.writes {
			w.err = err
		}
		return // batch is in an unknown state: leave it to the garbage collector
	}
	c.e.expiry.at(c.nearest) // not before the expirer can find it
	g.batch = batch
}

// apply starts to write batch. Pebble panics if its log cannot be written; that
// ends writing, but must not end the process.
func (c *committer) apply(batch *pebble.Batch) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("write the database: %v; restart when the disk is well again", r)
		}
	}()
	return c.e.db.ApplyNoSyncWait(batch, pebble.Sync)
}

// stage checks the conditions of w and adds it to batch at the next revision.
func (c *committer) stage(batch *pebble.Batch, w *write) error {
	c.replacing = c.replacing[:0]
	effective := false
	for i := range w.ops {
		op := &w.ops[i]
		cur := c.keys[op.Key]
		if op.Expect != store.Any && op.Expect != cur.mod {
			return &store.ConflictError{Key: op.Key, Expected: op.Expect, Actual: cur.mod}
		}
		effective = effective || !op.Delete || cur.mod != 0
		c.replacing = append(c.replacing, cur)
	}
	if !effective {
		w.txn.revision = c.revision
		return nil
	}
	c.revision++
	w.txn = txn{revision: c.revision, events: make([]store.Event, 0, len(w.ops)), size: w.size}
	c.changes = c.changes[:0]
	for i := range w.ops {
		op, old := &w.ops[i], c.replacing[i]
		if op.Delete && old.mod == 0 {
			continue
		}
		cur := c.put(batch, op, old)
		c.changes = appendChange(c.changes, change{key: op.Key, create: cur.create, prev: old.mod})
		event := store.Event{
			KV:      store.KV{Key: op.Key, CreateRevision: cur.create, ModRevision: c.revision},
			Deleted: op.Delete,
			Decoded: op.Decoded,
		}
		if !op.Delete {
			event.Value = op.Value
		}
		w.txn.events = append(w.txn.events, event)
	}
	c.key = appendLogKey(c.key[:0], c.revision)
	// Writing into a batch cannot fail: it only grows memory.
	_ = batch.Set(c.key, c.changes, nil)
	return nil
}

// put adds one operation at the newest revision to batch and to keys, and
// returns how it leaves the key.
func (c *committer) put(batch *pebble.Batch, op *store.Op, old current) current {
	if old.expiry != 0 {
		c.key = appendExpiryKey(c.key[:0], old.expiry, op.Key)
		_ = batch.Delete(c.key, nil)
	}
	var cur current
	if op.Delete {
		c.key = appendCurrentKey(c.key[:0], op.Key)
		_ = batch.Delete(c.key, nil)
		delete(c.keys, op.Key)
	} else {
		cur = current{create: old.create, mod: c.revision}
		if cur.create == 0 {
			cur.create = c.revision
		}
		if op.TTL > 0 {
			cur.expiry = c.e.o.Clock.Now().UnixMilli() + op.TTL*1000
			c.key = appendExpiryKey(c.key[:0], cur.expiry, op.Key)
			_ = batch.Set(c.key, nil, nil)
			c.nearest = min(c.nearest, cur.expiry)
		}
		c.key = appendCurrentKey(c.key[:0], op.Key)
		var buf [30]byte
		_ = batch.Set(c.key, appendCurrent(buf[:0], cur), nil)
		c.keys[op.Key] = cur
	}
	c.key = appendVersionKey(c.key[:0], op.Key, c.revision)
	value := op.Value
	if op.Delete {
		value = nil
	}
	d := batch.SetDeferred(len(c.key), uvarintLen(cur.create)+len(value))
	copy(d.Key, c.key)
	copy(d.Value[binary.PutUvarint(d.Value, uint64(cur.create)):], value)
	_ = d.Finish()
	return cur
}

// sync waits for each group to be durable, tells the watchers, and answers.
func (c *committer) sync() {
	for g := range c.syncing {
		if g.batch != nil {
			err := g.batch.SyncWait()
			if cerr := g.batch.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				c.fail(fmt.Errorf("sync the database: %w; restart when the disk is well again", err))
			}
		}
		// A group behind one that failed has failed too: its revisions
		// build on ones that may be lost.
		if failure := c.failure.Load(); failure != nil {
			for _, w := range g.writes {
				w.err = *failure
			}
		} else if g.batch != nil {
			c.e.durable.Store(g.revision)
			c.e.hub.publish(g)
		}
		for _, w := range g.writes {
			w.done <- struct{}{}
		}
	}
}

func (c *committer) fail(err error) {
	if c.failure.CompareAndSwap(nil, &err) {
		c.e.o.Log.Error("The database cannot be written any more", "err", err)
	}
}
