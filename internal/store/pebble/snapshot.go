package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"skiff/internal/store"
)

// Snapshot implements store.Engine. Writers go on meanwhile.
func (e *Engine) Snapshot(ctx context.Context, w io.Writer) error {
	if err := e.begin(); err != nil {
		return err
	}
	defer e.uses.Done()
	// The revision is read before the database is pinned, so that all of it is
	// there; Compact is held off until then, so that nothing of it is gone.
	e.compacting.Lock()
	revision := e.durable.Load()
	s := e.db.NewSnapshot()
	e.compacting.Unlock()
	defer s.Close()

	expiries, err := s.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte{kindCurrent}, UpperBound: []byte{kindCurrent + 1}})
	if err != nil {
		return readError(err)
	}
	defer expiries.Close()
	it, err := s.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte{kindVersion}, UpperBound: []byte{kindVersion + 1}})
	if err != nil {
		return readError(err)
	}
	defer it.Close()
	out, err := store.NewSnapshotWriter(w, revision)
	if err != nil {
		return err
	}
	err = scan(ctx, it, revision, func(kv store.KV) error {
		expires, err := expiryOf(expiries, kv)
		if err != nil {
			return err
		}
		return out.Write(store.SnapshotKV{KV: kv, Expires: expires})
	})
	if err != nil {
		return err
	}
	return out.Close()
}

// expiryOf looks up when kv expires; it is unknown, and so never, if kv was
// replaced after the snapshot's revision.
func expiryOf(it *pebble.Iterator, kv store.KV) (time.Time, error) {
	key := appendCurrentKey(nil, kv.Key)
	if !it.SeekGE(key) || string(it.Key()) != string(key) {
		return time.Time{}, it.Error()
	}
	raw, err := it.ValueAndErr()
	if err != nil {
		return time.Time{}, err
	}
	cur, err := decodeCurrent(raw)
	if err != nil || cur.mod != kv.ModRevision || cur.expiry == 0 {
		return time.Time{}, err
	}
	return time.UnixMilli(cur.expiry), nil
}

// Restore makes a database in o.Dir, which must not exist or be empty, from a
// portable snapshot. Keys keep their revisions. If it fails, o.Dir is as before.
func Restore(o Options, r io.Reader) (err error) {
	o = o.withDefaults()
	if entries, err := os.ReadDir(o.Dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("restore into %s: the directory is not empty; move it away first", o.Dir)
	}
	target := filepath.Clean(o.Dir)
	o.Dir = target + ".restoring"
	if err := os.RemoveAll(o.Dir); err != nil {
		return fmt.Errorf("restore into %s: %w", target, err)
	}
	defer os.RemoveAll(o.Dir)
	if err := restore(o, r); err != nil {
		return fmt.Errorf("restore into %s: %w", target, err)
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("restore into %s: %w", target, err)
	}
	if err := os.Rename(o.Dir, target); err != nil {
		return fmt.Errorf("restore into %s: %w", target, err)
	}
	parent, err := o.fs.OpenDir(filepath.Dir(target))
	if err != nil {
		return fmt.Errorf("restore into %s: %w", target, err)
	}
	return errors.Join(parent.Sync(), parent.Close())
}

func restore(o Options, r io.Reader) (err error) {
	db, err := openDB(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	b := db.NewBatch()
	defer func() { b.Close() }()
	revision, err := store.ReadSnapshot(r, func(kv store.SnapshotKV) error {
		if err := store.CheckKey(kv.Key); err != nil {
			return err
		}
		cur := current{create: kv.CreateRevision, mod: kv.ModRevision}
		if !kv.Expires.IsZero() {
			cur.expiry = kv.Expires.UnixMilli()
			_ = b.Set(appendExpiryKey(nil, cur.expiry, kv.Key), nil, nil)
		}
		_ = b.Set(appendCurrentKey(nil, kv.Key), appendCurrent(nil, cur), nil)
		value := binary.AppendUvarint(nil, uint64(cur.create))
		_ = b.Set(appendVersionKey(nil, kv.Key, cur.mod), append(value, kv.Value...), nil)
		if b.Len() < maxGroupBytes {
			return nil
		}
		err := b.Commit(pebble.NoSync)
		b.Close()
		b = db.NewBatch()
		return err
	})
	if err != nil {
		return err
	}
	number := func(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	_ = b.Set(metaFormat, number(formatVersion), nil)
	_ = b.Set(metaStart, number(revision), nil)
	_ = b.Set(metaCompacted, number(revision), nil)
	return b.Commit(pebble.Sync)
}
