package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"skiff/internal/store"
)

// errStop ends a scan early without an error.
var errStop = errors.New("stop")

// Get returns the newest durable value of key.
func (e *Engine) Get(ctx context.Context, key string) (store.KV, error) {
	if err := store.CheckKey(key); err != nil {
		return store.KV{}, err
	}
	var found store.KV
	lower := append(append([]byte{kindVersion}, key...), 0)
	_, err := e.read(ctx, lower, prefixEnd(lower), 0, func(kv store.KV) error {
		found = kv
		return errStop
	})
	if err == nil && found.Key == "" {
		err = store.ErrNotFound
	}
	return found, err
}

// Range implements store.Engine. Writers go on while fn runs.
func (e *Engine) Range(ctx context.Context, prefix string, o store.RangeOptions, fn func(store.KV) error) (int64, error) {
	lower := append([]byte{kindVersion}, prefix...)
	upper := prefixEnd(lower)
	if o.From > prefix {
		lower = append(lower[:1], o.From...)
		if bytes.Compare(lower, upper) >= 0 {
			lower = upper
		}
	}
	n := 0
	return e.read(ctx, lower, upper, o.At, func(kv store.KV) error {
		if err := fn(kv); err != nil {
			return err
		}
		if n++; n == o.Limit {
			return errStop
		}
		return nil
	})
}

// read scans the versions in [lower, upper) as of revision at (0: the newest)
// and returns that revision.
func (e *Engine) read(ctx context.Context, lower, upper []byte, at int64, fn func(store.KV) error) (int64, error) {
	if err := e.begin(); err != nil {
		return 0, err
	}
	defer e.uses.Done()
	for {
		revision := at
		newest := e.durable.Load()
		if at == 0 {
			revision = newest
		} else if at > newest {
			return 0, &store.FutureRevisionError{Requested: at, Newest: newest}
		}
		it, err := e.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			return 0, readError(err)
		}
		if oldest := e.compacted.Load(); revision < oldest {
			if err := it.Close(); err != nil {
				return 0, readError(err)
			}
			if at == 0 {
				continue // a compaction overtook us; there is a newer revision
			}
			return 0, &store.CompactedError{Requested: at, Oldest: oldest}
		}
		err = scan(ctx, it, revision, fn)
		if cerr := it.Close(); err == nil && cerr != nil {
			err = readError(cerr)
		}
		if errors.Is(err, errStop) {
			err = nil
		}
		return revision, err
	}
}

// scan calls fn for the newest version at or below revision of every key that
// exists there.
func scan(ctx context.Context, it *pebble.Iterator, revision int64, fn func(store.KV) error) error {
	// last is the key whose version was found; older ones follow it.
	var last []byte
	steps := 0
	for ok := it.First(); ok; ok = it.Next() {
		if steps++; steps%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		key, mod, err := splitVersionKey(it.Key())
		if err != nil {
			return err
		}
		if mod > revision || bytes.Equal(key, last) {
			continue
		}
		last = append(last[:0], key...)
		raw, err := it.ValueAndErr()
		if err != nil {
			return readError(err)
		}
		create, value, err := splitVersion(raw)
		if err != nil {
			return fmt.Errorf("key %s revision %d: %w", key, mod, err)
		}
		if create == 0 {
			continue
		}
		kv := store.KV{Key: string(key), Value: bytes.Clone(value), CreateRevision: create, ModRevision: mod}
		if err := fn(kv); err != nil {
			return err
		}
	}
	return it.Error()
}
