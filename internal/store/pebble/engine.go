// Package pebble is the embedded storage engine: revisions over one Pebble
// database in a local directory. It serves a cluster with a single server.
//
// Writers are gathered into groups. A group is checked, written as one batch
// and synced once; while it syncs, the next one is gathered and checked against
// it. Nothing is acknowledged, read or watched before it is durable: readers
// look at the database as of the newest durable revision.
package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"k8s.io/utils/clock"

	"skiff/internal/store"
)

// Options say where the database is. Dir is required.
type Options struct {
	// Dir is made if it does not exist.
	Dir string
	// Log defaults to none.
	Log *slog.Logger
	// Clock is what TTLs go by; the default is the machine's.
	Clock clock.WithTicker
	// CacheBytes bounds the memory for blocks read from disk; the default is
	// 8 MiB (the operating system's page cache stands behind it).
	CacheBytes int64
	// MemTableBytes is how much is written before it is flushed into a sorted
	// file; the default is 8 MiB. Up to three such tables are in memory under
	// load, none at idle.
	MemTableBytes uint64

	// fs is the disk; tests lose its power.
	fs vfs.FS
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 8 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 8 << 20
	}
	if o.fs == nil {
		o.fs = vfs.Default
	}
	return o
}

// Engine is a store.Engine over a Pebble database.
type Engine struct {
	o  Options
	db *database

	// durable is the newest revision that is synced. Reads are as of it.
	durable atomic.Int64
	// compacted is the oldest revision that can be read. It is raised before
	// the history below is removed, so a reader that opened its iterator and
	// then finds its revision at or above compacted has seen all of it.
	compacted  atomic.Int64
	compacting sync.Mutex
	// start is the revision that the database was made with: 1, or that of the
	// snapshot it was restored from. Nothing is logged for it.
	start int64

	committer committer
	hub       hub
	expiry    expirer

	// stop ends everything that waits; uses counts the calls under way.
	stop     context.Context
	shutdown context.CancelFunc
	mu       sync.Mutex
	closed   bool
	uses     sync.WaitGroup
	loops    sync.WaitGroup
}

var _ store.Engine = (*Engine)(nil)

// Open opens the database in o.Dir, or makes it. A write that a crash cut off
// is dropped (it was never acknowledged); any other damage is an error.
func Open(o Options) (*Engine, error) {
	o = o.withDefaults()
	db, err := openDB(o)
	if err != nil {
		return nil, err
	}
	e := &Engine{o: o, db: db}
	keys, err := e.load()
	if err != nil {
		return nil, errors.Join(damaged(o.Dir, err), db.Close())
	}
	e.stop, e.shutdown = context.WithCancel(context.Background())
	e.hub.init(e.durable.Load(), o.Clock, e.stop)
	e.committer.init(e, keys)
	e.expiry.init()
	e.loops.Go(e.committer.commit)
	e.loops.Go(e.committer.sync)
	e.loops.Go(e.expire)
	return e, nil
}

// database is a Pebble database with the lock on its directory.
type database struct {
	*pebble.DB
	lock *pebble.Lock
}

func (d *database) Close() error {
	return errors.Join(d.DB.Close(), d.lock.Close())
}

func openDB(o Options) (*database, error) {
	if err := o.fs.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := pebble.LockDirectory(o.Dir, o.fs)
	if err != nil {
		return nil, fmt.Errorf("the data directory %s is in use by another process (%w): stop that one first, or choose another directory", o.Dir, err)
	}
	po := &pebble.Options{
		FormatMajorVersion:          pebble.FormatNewest,
		CacheSize:                   o.CacheBytes,
		MemTableSize:                o.MemTableBytes,
		MemTableStopWritesThreshold: 3,
		MaxOpenFiles:                512,
		Logger:                      logger{o.Log},
		EventListener:               listener(o.Log),
		Lock:                        lock,
		FS:                          o.fs,
	}
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(o.Dir, po)
	if err != nil {
		return nil, errors.Join(damaged(o.Dir, err), lock.Close())
	}
	return &database{DB: db, lock: lock}, nil
}

// damaged explains an error that came up while opening the database in dir.
func damaged(dir string, err error) error {
	if isCorruption(err) {
		return fmt.Errorf("the database in %s is damaged: %w; move the directory away and restore a snapshot", dir, err)
	}
	return fmt.Errorf("open the database in %s: %w", dir, err)
}

// readError explains an error of a read.
func readError(err error) error {
	if isCorruption(err) {
		return fmt.Errorf("the database is damaged: %w; stop, move its directory away and restore a snapshot", err)
	}
	return fmt.Errorf("read the database: %w", err)
}

func isCorruption(err error) bool {
	return pebble.IsCorruptionError(err) || errors.Is(err, errRecord)
}

// load reads where the database stands, and marks a new one. It returns what
// is known of the keys that exist.
func (e *Engine) load() (map[string]current, error) {
	format, err := e.meta(metaFormat)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		if err := e.db.Set(metaFormat, binary.BigEndian.AppendUint64(nil, formatVersion), pebble.Sync); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case format != formatVersion:
		return nil, fmt.Errorf("it has format %d, this version knows only %d", format, formatVersion)
	}
	revision, err := e.meta(metaStart)
	if errors.Is(err, pebble.ErrNotFound) {
		revision = 1
	} else if err != nil {
		return nil, err
	}
	compacted, err := e.meta(metaCompacted)
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return nil, err
	}
	e.compacted.Store(compacted)
	e.start = revision

	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindLog}, UpperBound: []byte{kindLog + 1}})
	if err != nil {
		return nil, err
	}
	if it.Last() {
		revision, err = decodeLogKey(it.Key())
	}
	e.durable.Store(revision)
	if err := errors.Join(err, it.Close()); err != nil {
		return nil, err
	}
	return e.loadKeys()
}

func (e *Engine) loadKeys() (_ map[string]current, err error) {
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindCurrent}, UpperBound: []byte{kindCurrent + 1}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	keys := map[string]current{}
	for ok := it.First(); ok; ok = it.Next() {
		raw, err := it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		key := string(it.Key()[1:])
		if keys[key], err = decodeCurrent(raw); err != nil {
			return nil, fmt.Errorf("key %s: %w", key, err)
		}
	}
	return keys, it.Error()
}

func (e *Engine) meta(name []byte) (int64, error) {
	b, closer, err := e.db.Get(name)
	if err != nil {
		return 0, err
	}
	defer closer.Close()
	return decodeRevision(b)
}

// begin counts a call in, so that Close waits for it; the caller must call
// uses.Done if there was no error.
func (e *Engine) begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return store.ErrClosed
	}
	e.uses.Add(1)
	return nil
}

// Close lets the transactions under way finish, ends watches with
// store.ErrClosed and closes the database.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.mu.Unlock()
	e.shutdown()
	e.uses.Wait()
	close(e.committer.queue)
	e.loops.Wait()
	return e.db.Close()
}

// Size implements store.Sized: what the database's files take.
func (e *Engine) Size(context.Context) (int64, error) {
	if err := e.begin(); err != nil {
		return 0, err
	}
	defer e.uses.Done()
	return int64(e.db.Metrics().DiskSpaceUsage()), nil
}

// Revision returns the newest durable revision. Watchers that are behind it
// are told about it soon.
func (e *Engine) Revision(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := e.begin(); err != nil {
		return 0, err
	}
	defer e.uses.Done()
	revision := e.durable.Load()
	e.hub.progress(revision)
	return revision, nil
}
