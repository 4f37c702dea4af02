package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"skiff/internal/store"
)

func revision(t *testing.T, e store.Engine) int64 {
	t.Helper()
	rev, err := e.Revision(t.Context())
	if err != nil {
		t.Fatalf("Revision: %v", err)
	}
	return rev
}

func txn(t *testing.T, e store.Engine, ops ...store.Op) int64 {
	t.Helper()
	rev, err := e.Txn(t.Context(), ops...)
	if err != nil {
		t.Fatalf("Txn of %s: %v", ops[0].Key, err)
	}
	return rev
}

func put(t *testing.T, e store.Engine, key, value string) int64 {
	t.Helper()
	return txn(t, e, store.Op{Key: key, Value: []byte(value), Expect: store.Any})
}

func list(t *testing.T, e store.Engine, prefix string, o store.RangeOptions) ([]store.KV, int64) {
	t.Helper()
	var kvs []store.KV
	rev, err := e.Range(t.Context(), prefix, o, func(kv store.KV) error {
		kvs = append(kvs, kv)
		return nil
	})
	if err != nil {
		t.Fatalf("Range(%q, %+v): %v", prefix, o, err)
	}
	return kvs, rev
}

func keys(kvs []store.KV) string {
	var b strings.Builder
	for i, kv := range kvs {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(kv.Key)
	}
	return b.String()
}

func equalKV(a, b store.KV) bool {
	return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && a.CreateRevision == b.CreateRevision && a.ModRevision == b.ModRevision
}

// parallel runs fn in n goroutines and fails the test with their errors.
func parallel(t *testing.T, n int, fn func(i int) error) {
	t.Helper()
	var g sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		g.Go(func() { errs[i] = fn(i) })
	}
	g.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// watcher collects what a watch delivers.
type watcher struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	changed chan struct{}
	batches []store.Batch
	err     error
}

// watch starts a watch, which ends with the test.
func watch(t *testing.T, e store.Engine, prefix string, after int64) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{t: t, cancel: cancel, done: make(chan struct{}), changed: make(chan struct{})}
	go func() {
		defer close(w.done)
		err := e.Watch(ctx, prefix, after, func(b store.Batch) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.batches = append(w.batches, b)
			close(w.changed)
			w.changed = make(chan struct{})
			return nil
		})
		w.mu.Lock()
		w.err = err
		w.mu.Unlock()
	}()
	t.Cleanup(w.stop)
	return w
}

// stop ends the watch and waits for it.
func (w *watcher) stop() {
	w.cancel()
	<-w.done
}

// until waits for the watch to reach a revision and returns all its events,
// having checked that they are in order.
func (w *watcher) until(rev int64) []store.Event {
	w.t.Helper()
	deadline := time.After(timeout)
	for {
		w.mu.Lock()
		batches, changed := w.batches, w.changed
		w.mu.Unlock()
		if n := len(batches); n > 0 && batches[n-1].Revision >= rev {
			return w.check(batches)
		}
		select {
		case <-changed:
		case <-w.done:
			w.t.Fatalf("the watch ended before revision %d: %v", rev, w.err)
		case <-deadline:
			w.t.Fatalf("the watch did not reach revision %d in %s: it has %d batches", rev, timeout, len(batches))
		}
	}
}

// failed waits for the watch to end and returns its error.
func (w *watcher) failed() error {
	w.t.Helper()
	select {
	case <-w.done:
		return w.err
	case <-time.After(timeout):
		w.t.Fatalf("the watch did not end in %s", timeout)
		return nil
	}
}

func (w *watcher) check(batches []store.Batch) []store.Event {
	w.t.Helper()
	var events []store.Event
	last := int64(0)
	for _, b := range batches {
		if b.Revision < last {
			w.t.Fatalf("a batch of revision %d follows revision %d", b.Revision, last)
		}
		seen := last
		for _, event := range b.Events {
			if event.ModRevision <= last || event.ModRevision < seen || event.ModRevision > b.Revision {
				w.t.Fatalf("event of revision %d after %d in a batch of %d", event.ModRevision, seen, b.Revision)
			}
			seen = event.ModRevision
			if event.Deleted && (event.Value != nil || event.CreateRevision != 0) {
				w.t.Fatalf("the removal %+v has a value or a create revision", event)
			}
		}
		events = append(events, b.Events...)
		last = b.Revision
	}
	return events
}

// model is a naive store: every revision in full.
type model struct {
	newest int64
	at     map[int64][]store.KV
	events []store.Event
}

func newModel(start int64) *model {
	return &model{newest: start, at: map[int64][]store.KV{start: nil}}
}

// random applies one transaction to both the model and the engine.
func (m *model) random(t *testing.T, e store.Engine, r *rand.Rand) {
	t.Helper()
	state := map[string]store.KV{}
	for _, kv := range m.at[m.newest] {
		state[kv.Key] = kv
	}
	var ops []store.Op
	rev := m.newest + 1
	for _, i := range r.Perm(8)[:1+r.IntN(3)] {
		key := fmt.Sprintf("/m/%d", i)
		old := state[key]
		op := store.Op{Key: key, Expect: old.ModRevision}
		if op.Delete = old.ModRevision != 0 && r.IntN(3) == 0; op.Delete {
			delete(state, key)
			m.events = append(m.events, store.Event{KV: store.KV{Key: key, ModRevision: rev}, Deleted: true})
		} else {
			op.Value = fmt.Appendf(nil, "%d-%d", rev, i)
			kv := store.KV{Key: key, Value: op.Value, CreateRevision: old.CreateRevision, ModRevision: rev}
			if kv.CreateRevision == 0 {
				kv.CreateRevision = rev
			}
			state[key] = kv
			m.events = append(m.events, store.Event{KV: kv})
		}
		ops = append(ops, op)
	}
	if got := txn(t, e, ops...); got != rev {
		t.Fatalf("the transaction made revision %d, want %d", got, rev)
	}
	m.newest = rev
	for _, kv := range state {
		m.at[rev] = append(m.at[rev], kv)
	}
	slices.SortFunc(m.at[rev], func(a, b store.KV) int { return strings.Compare(a.Key, b.Key) })
}

func equalEvent(a, b store.Event) bool {
	return equalKV(a.KV, b.KV) && a.Deleted == b.Deleted
}

// sortEvents puts the events of each revision in the order of their keys, since
// an engine may give them in any.
func sortEvents(events []store.Event) []store.Event {
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b store.Event) int {
		if a.ModRevision != b.ModRevision {
			return int(a.ModRevision - b.ModRevision)
		}
		return strings.Compare(a.Key, b.Key)
	})
	return events
}
