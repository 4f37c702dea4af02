// Package store is the contract between the API server and its database: an
// ordered map from keys to values in which every write makes a new revision of
// the whole, as in etcd. Engines live in the folders below (pebble, etcd); one
// test suite (enginetest) says what all of them must do.
//
// Invariants that every engine keeps:
//
//  1. Revisions grow by exactly one for each transaction, and a transaction's
//     events all carry that revision.
//  2. A transaction that was acknowledged is durable: it is there after SIGKILL
//     or power loss. One that was not acknowledged is there whole or not at all.
//  3. Watch delivers every event after the given revision, once, in order.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// KV is one key at one revision. Value must not be changed by anyone.
type KV struct {
	Key   string
	Value []byte
	// CreateRevision is the revision at which the key came into being;
	// ModRevision that of its newest value.
	CreateRevision, ModRevision int64
}

// Any as Op.Expect makes a write unconditional.
const Any int64 = -1

// Op is one conditional write of a transaction.
type Op struct {
	Key string
	// Value is the new value; it is ignored when Delete is set. The engine
	// keeps the slice: the caller must not change it afterwards.
	Value  []byte
	Delete bool
	// Expect is the ModRevision that the key must have for the transaction to
	// go through; 0 means that the key must not exist.
	Expect int64
	// TTL in seconds after which the engine removes the key; 0 keeps it.
	TTL int64
	// Decoded is handed on unchanged in Event.Decoded by engines that live in
	// this process, so that a value just encoded need not be decoded again.
	Decoded any
}

// Event is one change of one key.
type Event struct {
	KV
	// Deleted tells a removal; KV.Value is then nil, CreateRevision 0 and
	// ModRevision that of the removal.
	Deleted bool
	// Decoded is Op.Decoded of the write, or nil.
	Decoded any
}

// Batch is what one or more revisions changed. A batch without events says that
// nothing below the watched prefix changed up to Revision (progress).
type Batch struct {
	Revision int64
	Events   []Event
}

// RangeOptions narrow Range; the zero value means all keys, now.
type RangeOptions struct {
	// At is the revision to read; 0 means the newest.
	At int64
	// From is the first key to return (inclusive).
	From string
	// Limit is the greatest number of keys to return; 0 means all.
	Limit int
}

// Engine is a revisioned key-value store. All methods are safe for concurrent
// use.
type Engine interface {
	// Revision returns the newest revision, linearizably: every transaction
	// acknowledged anywhere before the call is at or below it. Every watch
	// reaches the returned revision soon, by a batch without events if need be.
	Revision(ctx context.Context) (int64, error)
	// Get returns the newest value of key, or ErrNotFound.
	Get(ctx context.Context, key string) (KV, error)
	// Range calls fn for each key with the prefix, in order, as of one
	// revision, which it returns. It stops at fn's first error and returns it.
	// A revision that is compacted gives *CompactedError, one that is not there
	// yet *FutureRevisionError.
	Range(ctx context.Context, prefix string, o RangeOptions, fn func(KV) error) (int64, error)
	// Txn applies all ops or none and returns the new revision. If a
	// condition does not hold, the error is *ConflictError. CheckOps says what
	// ops must be like. Removing what does not exist is no change: a
	// transaction that only does that makes no revision and returns the newest.
	// If ctx ends first, the outcome is unknown.
	Txn(ctx context.Context, ops ...Op) (int64, error)
	// Watch calls fn with every batch after revision `after`, from one
	// goroutine at a time, until ctx ends or fn fails; it returns that error.
	// If events after `after` are compacted the error is *CompactedError. A
	// batch may hold events of many revisions, but never a part of one. A
	// watcher that is slow holds up nobody. fn must not close the engine.
	Watch(ctx context.Context, prefix string, after int64, fn func(Batch) error) error
	// Compact drops history: values that were replaced or deleted at or before
	// revision. The newest value of each key stays, and revision itself can
	// still be read. What is compacted already is passed over; a revision that
	// is not there yet gives *FutureRevisionError.
	Compact(ctx context.Context, revision int64) error
	// Snapshot writes a consistent copy of the newest state, in the portable
	// form that ReadSnapshot reads.
	Snapshot(ctx context.Context, w io.Writer) error
	Close() error
}

// Sized is an Engine that knows how many bytes it takes.
type Sized interface {
	Size(ctx context.Context) (int64, error)
}

// ErrNotFound is returned by Get for a key that does not exist.
var ErrNotFound = errors.New("key not found")

// ConflictError is returned by Txn when the condition of one of its ops does
// not hold.
type ConflictError struct {
	Key string
	// Expected is Op.Expect; Actual the key's ModRevision, 0 if it does not
	// exist.
	Expected, Actual int64
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("key %s: expected revision %d, found %d", e.Key, e.Expected, e.Actual)
}

// ErrClosed is returned by every method after Close, and by watches that Close
// ended.
var ErrClosed = errors.New("the store is closed")

// FutureRevisionError tells that a revision was asked for that is not there yet.
type FutureRevisionError struct {
	Requested, Newest int64
}

func (e *FutureRevisionError) Error() string {
	return fmt.Sprintf("revision %d is not there yet: the newest is %d", e.Requested, e.Newest)
}

// CompactedError tells that a revision was asked for that is no longer kept.
type CompactedError struct {
	Requested, Oldest int64
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("revision %d is compacted: the oldest kept is %d", e.Requested, e.Oldest)
}
