package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"skiff/internal/store"
)

// compactTxns is how many transactions of the log are dropped at once.
const compactTxns = 1024

// Compact implements store.Engine. It reads only the log of what it drops. If
// it is cut short, the next call goes on from there.
func (e *Engine) Compact(ctx context.Context, revision int64) error {
	if err := e.begin(); err != nil {
		return err
	}
	defer e.uses.Done()
	e.compacting.Lock()
	defer e.compacting.Unlock()
	if newest := e.durable.Load(); revision > newest {
		return &store.FutureRevisionError{Requested: revision, Newest: newest}
	}
	if revision <= e.compacted.Load() {
		return nil
	}
	// Readers are turned away before anything goes.
	e.compacted.Store(revision)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		more, err := e.compactSome(revision)
		if err != nil {
			return fmt.Errorf("compact to revision %d: %w", revision, err)
		}
		if !more {
			return nil
		}
	}
}

// compactSome drops the oldest part of the log below revision, with the
// versions it tells to be out of date, and says if there is more.
//
// None of it is synced: the log is written in order, so a later transaction's
// sync covers it, and after a crash before that it is simply done again.
func (e *Engine) compactSome(revision int64) (more bool, err error) {
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindLog}, UpperBound: appendLogKey(nil, revision)})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	b := e.db.NewBatch()
	defer b.Close()
	if err := b.Set(metaCompacted, binary.BigEndian.AppendUint64(nil, uint64(revision)), nil); err != nil {
		return false, err
	}
	var first, last int64
	n := 0
	for ok := it.First(); ok && n < compactTxns; ok = it.Next() {
		n++
		if last, err = decodeLogKey(it.Key()); err != nil {
			return false, err
		}
		if n == 1 {
			first = last
		}
		raw, err := it.ValueAndErr()
		if err != nil {
			return false, err
		}
		var failed error
		err = decodeLog(raw, func(c change) {
			if c.prev != 0 {
				failed = errors.Join(failed, b.Delete(appendVersionKey(nil, c.key, c.prev), nil))
			}
			if c.create == 0 {
				failed = errors.Join(failed, b.Delete(appendVersionKey(nil, c.key, last), nil))
			}
		})
		if err = errors.Join(err, failed); err != nil {
			return false, err
		}
	}
	if err := it.Error(); err != nil {
		return false, err
	}
	if n > 0 {
		if err := b.DeleteRange(appendLogKey(nil, first), appendLogKey(nil, last+1), nil); err != nil {
			return false, err
		}
	}
	return n == compactTxns, b.Commit(pebble.NoSync)
}
