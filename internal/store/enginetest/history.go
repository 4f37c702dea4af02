package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"skiff/internal/store"
)

func testCompact(t *testing.T, e store.Engine) {
	m := newModel(revision(t, e))
	r := rand.New(rand.NewPCG(4, 4))
	for range 60 {
		m.random(t, e, r)
	}
	at := m.newest - 20
	if err := e.Compact(t.Context(), at); err != nil {
		t.Fatalf("Compact(%d): %v", at, err)
	}
	if err := e.Compact(t.Context(), at-5); err != nil {
		t.Errorf("Compact of what is compacted: %v, want nothing to happen", err)
	}
	future := (*store.FutureRevisionError)(nil)
	if err := e.Compact(t.Context(), m.newest+1); !errors.As(err, &future) {
		t.Errorf("Compact in the future: %v, want a FutureRevisionError", err)
	}
	for rev := at; rev <= m.newest; rev++ {
		if kvs, _ := list(t, e, "/m/", store.RangeOptions{At: rev}); !slices.EqualFunc(kvs, m.at[rev], equalKV) {
			t.Errorf("Range at %d after compaction to %d = %v, want %v", rev, at, kvs, m.at[rev])
		}
	}
	compacted := (*store.CompactedError)(nil)
	_, err := e.Range(t.Context(), "/m/", store.RangeOptions{At: at - 1}, func(store.KV) error { return nil })
	if !errors.As(err, &compacted) || compacted.Oldest != at || compacted.Requested != at-1 {
		t.Errorf("Range at %d after compaction to %d: %v, want a CompactedError that says so", at-1, at, err)
	}
	compacted = nil
	if err := watch(t, e, "/m/", at-2).failed(); !errors.As(err, &compacted) || compacted.Oldest != at {
		t.Errorf("Watch after %d, compacted to %d: %v, want a CompactedError", at-2, at, err)
	}
	want := slices.DeleteFunc(slices.Clone(m.events), func(event store.Event) bool { return event.ModRevision <= at })
	if got := watch(t, e, "/m/", at).until(m.newest); !slices.EqualFunc(sortEvents(got), sortEvents(want), equalEvent) {
		t.Errorf("Watch after %d, compacted to it, gave %v, want %v", at, got, want)
	}
	for range 10 {
		m.random(t, e, r)
	}
	if err := e.Compact(t.Context(), m.newest); err != nil {
		t.Fatalf("Compact to the newest revision: %v", err)
	}
	if kvs, rev := list(t, e, "/m/", store.RangeOptions{}); rev != m.newest || !slices.EqualFunc(kvs, m.at[m.newest], equalKV) {
		t.Errorf("Range after compaction = %v at %d, want %v at %d", kvs, rev, m.at[m.newest], m.newest)
	}
}

// Compaction takes nothing away from a read of the newest state.
func testCompactUnderReaders(t *testing.T, e store.Engine) {
	const keys = 20
	for i := range keys {
		put(t, e, fmt.Sprintf("/k/%02d", i), "x")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	parallel(t, 3, func(i int) error {
		switch i {
		case 0:
			defer cancel()
			for n := range 150 {
				rev, err := e.Txn(t.Context(), store.Op{Key: fmt.Sprintf("/k/%02d", n%keys), Value: []byte("y"), Expect: store.Any})
				if err != nil {
					return err
				}
				if err := e.Compact(t.Context(), rev); err != nil {
					return err
				}
			}
		case 1:
			for ctx.Err() == nil {
				n := 0
				if _, err := e.Range(t.Context(), "/k/", store.RangeOptions{}, func(store.KV) error { n++; return nil }); err != nil {
					return err
				}
				if n != keys {
					return fmt.Errorf("Range saw %d keys, want %d", n, keys)
				}
			}
		case 2:
			for ctx.Err() == nil {
				if _, err := e.Get(t.Context(), "/k/07"); err != nil {
					return fmt.Errorf("Get: %w", err)
				}
			}
		}
		return nil
	})
}

func testWatchReplay(t *testing.T, e store.Engine) {
	start := revision(t, e)
	m := newModel(start)
	r := rand.New(rand.NewPCG(5, 5))
	for range 80 {
		m.random(t, e, r)
		put(t, e, "/other", "x")
		m.newest++
		m.at[m.newest] = m.at[m.newest-1]
	}
	revision(t, e) // so that watches go past their last event
	for _, after := range []int64{start, start + 1, start + 77, m.newest - 1} {
		want := slices.DeleteFunc(slices.Clone(m.events), func(event store.Event) bool { return event.ModRevision <= after })
		if got := watch(t, e, "/m/", after).until(m.newest); !slices.EqualFunc(sortEvents(got), sortEvents(want), equalEvent) {
			t.Errorf("Watch after %d gave %v, want %v", after, got, want)
		}
	}
}

func testWatchLive(t *testing.T, e store.Engine) {
	m := newModel(revision(t, e))
	w := watch(t, e, "/m/", m.newest)
	r := rand.New(rand.NewPCG(6, 6))
	for i := range 60 {
		m.random(t, e, r)
		if i%10 == 0 { // sometimes wait, so that not all is one batch
			w.until(m.newest)
		}
	}
	if got := w.until(m.newest); !slices.EqualFunc(sortEvents(got), sortEvents(m.events), equalEvent) {
		t.Errorf("Watch gave %v, want %v", got, m.events)
	}
}

// A watch after a revision that is not there yet gives nothing before it.
func testWatchFuture(t *testing.T, e store.Engine) {
	after := revision(t, e) + 2
	w := watch(t, e, "/", after)
	for range 4 {
		put(t, e, "/a", "x")
	}
	events := w.until(after + 2)
	if len(events) != 2 || events[0].ModRevision != after+1 {
		t.Errorf("Watch after %d gave %v, want two events from %d on", after, events, after+1)
	}
}

// Asking for the revision makes watches that have no events reach it.
func testWatchProgress(t *testing.T, e store.Engine) {
	w := watch(t, e, "/quiet/", revision(t, e))
	var last int64
	for range 5 {
		put(t, e, "/loud", "x")
		last = put(t, e, "/loud", "y")
		if rev := revision(t, e); rev != last {
			t.Fatalf("Revision = %d, want %d", rev, last)
		}
		if events := w.until(last); len(events) != 0 {
			t.Fatalf("the quiet watch got %v", events)
		}
	}
	put(t, e, "/quiet/now", "x")
	if events := w.until(last + 1); len(events) != 1 {
		t.Errorf("the watch got %v, want one event", events)
	}
}

func testWatchStops(t *testing.T, e store.Engine) {
	rev := put(t, e, "/a", "x")
	stop := errors.New("stop")
	err := e.Watch(t.Context(), "/", rev-1, func(store.Batch) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("Watch gave %v, want fn's error", err)
	}
	w := watch(t, e, "/", rev)
	w.stop()
	if !errors.Is(w.err, context.Canceled) {
		t.Errorf("Watch gave %v, want context.Canceled", w.err)
	}
}

// A watcher that hangs holds up neither writers nor other watchers, and in the
// end misses nothing.
func testWatchSlow(t *testing.T, e store.Engine) {
	start := revision(t, e)
	hang := make(chan struct{})
	hanging := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var slow []store.Event
	result := make(chan error, 1)
	const writers, rounds = 16, 400
	last := start + writers*rounds + 1
	reached := errors.New("reached")
	go func() {
		first := true
		result <- e.Watch(ctx, "/", start, func(b store.Batch) error {
			slow = append(slow, b.Events...)
			if first {
				first = false
				close(hanging)
				<-hang
			}
			if b.Revision >= last {
				return reached
			}
			return nil
		})
	}()
	put(t, e, "/first", "x")
	<-hanging
	fast := watch(t, e, "/", start)
	value := bytes.Repeat([]byte("v"), 2000)
	parallel(t, writers, func(i int) error {
		for n := range rounds {
			key := fmt.Sprintf("/w/%d", i)
			if _, err := e.Txn(t.Context(), store.Op{Key: key, Value: fmt.Appendf(nil, "%s%d", value, n), Expect: store.Any}); err != nil {
				return err
			}
		}
		return nil
	})
	want := fast.until(last)
	close(hang)
	select {
	case err := <-result:
		if !errors.Is(err, reached) {
			t.Fatalf("the slow watch ended: %v", err)
		}
	case <-time.After(timeout):
		t.Fatalf("the slow watch did not catch up in %s", timeout)
	}
	if len(want) != writers*rounds+1 || !slices.EqualFunc(slow, want, equalEvent) {
		t.Errorf("the slow watch got %d events, the fast one %d, want %d in the same order", len(slow), len(want), writers*rounds+1)
	}
}

// Watches that start while writers run get every event once, in order, and
// what they get adds up to the state.
func testWatchConcurrent(t *testing.T, e store.Engine) {
	const writers, rounds = 8, 60
	start := revision(t, e)
	early := watch(t, e, "/w/", start)
	watches := make([]*watcher, writers)
	parallel(t, writers, func(i int) error {
		for n := range rounds {
			op := store.Op{Key: fmt.Sprintf("/w/%d/%d", i, n%7), Value: fmt.Append(nil, n), Expect: store.Any}
			if op.Delete = n%5 == 4; op.Delete {
				op.Key = fmt.Sprintf("/w/%d/%d", i, (n-1)%7) // the one just written
			}
			if _, err := e.Txn(t.Context(), op); err != nil {
				return err
			}
			if n == rounds/2 {
				watches[i] = watch(t, e, "/w/", start)
			}
		}
		return nil
	})
	last := revision(t, e)
	events := early.until(last)
	state := map[string]store.KV{}
	for i, event := range events {
		if event.ModRevision != start+int64(i)+1 {
			t.Fatalf("event %d has revision %d, want %d", i, event.ModRevision, start+int64(i)+1)
		}
		if event.Deleted {
			delete(state, event.Key)
		} else {
			state[event.Key] = event.KV
		}
	}
	for i, w := range watches {
		if got := w.until(last); !slices.EqualFunc(got, events, equalEvent) {
			t.Errorf("watch %d got %d events, want the same %d as the first", i, len(got), len(events))
		}
	}
	kvs, _ := list(t, e, "/w/", store.RangeOptions{})
	if len(kvs) != len(state) {
		t.Errorf("the events add up to %d keys, the state has %d", len(state), len(kvs))
	}
	for _, kv := range kvs {
		if !equalKV(kv, state[kv.Key]) {
			t.Errorf("the events add up to %v, the state has %v", state[kv.Key], kv)
		}
	}
}

func testTTL(t *testing.T, e store.Engine) {
	start := revision(t, e)
	w := watch(t, e, "/", start)
	txn(t, e, store.Op{Key: "/short", Value: []byte("x"), TTL: 1})
	txn(t, e, store.Op{Key: "/long", Value: []byte("x"), TTL: 3600})
	txn(t, e, store.Op{Key: "/renewed", Value: []byte("x"), TTL: 1})
	renewed := txn(t, e, store.Op{Key: "/renewed", Value: []byte("y"), Expect: store.Any, TTL: 3600})
	txn(t, e, store.Op{Key: "/kept", Value: []byte("x"), TTL: 1})
	last := txn(t, e, store.Op{Key: "/kept", Value: []byte("y"), Expect: store.Any})
	events := w.until(last + 1)
	if len(events) != 7 {
		t.Fatalf("events %v, want six writes and one removal", events)
	}
	if gone := events[6]; !gone.Deleted || gone.Key != "/short" || gone.ModRevision != last+1 {
		t.Errorf("the last event is %+v, want the removal of /short at %d", gone, last+1)
	}
	kvs, at := list(t, e, "/", store.RangeOptions{})
	if keys(kvs) != "/kept /long /renewed" || kvs[2].ModRevision != renewed || at != last+1 {
		t.Errorf("after the expiry: %v at %d, want /kept /long /renewed at %d", kvs, at, last+1)
	}
	if kvs, _ := list(t, e, "/short", store.RangeOptions{At: last}); keys(kvs) != "/short" {
		t.Errorf("before the expiry /short was %v, want it to be there", kvs)
	}
}

func testSnapshot(t *testing.T, e store.Engine) {
	m := newModel(revision(t, e))
	r := rand.New(rand.NewPCG(7, 7))
	for range 50 {
		m.random(t, e, r)
	}
	before := time.Now()
	txn(t, e, store.Op{Key: "/ttl", Value: []byte("x"), TTL: 3600})
	newest := m.newest + 1
	var buf bytes.Buffer
	if err := e.Snapshot(t.Context(), &buf); err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	var got []store.KV
	rev, err := store.ReadSnapshot(bytes.NewReader(buf.Bytes()), func(kv store.SnapshotKV) error {
		if kv.Key != "/ttl" {
			if !kv.Expires.IsZero() {
				t.Errorf("%s expires at %s", kv.Key, kv.Expires)
			}
			got = append(got, kv.KV)
		} else if left := kv.Expires.Sub(before); left < 3500*time.Second || left > 3700*time.Second {
			t.Errorf("/ttl expires in %s, want an hour", left)
		}
		return nil
	})
	if err != nil || rev != newest {
		t.Fatalf("ReadSnapshot = %d, %v, want %d", rev, err, newest)
	}
	if !slices.EqualFunc(got, m.at[m.newest], equalKV) {
		t.Errorf("the snapshot has %v, want %v", got, m.at[m.newest])
	}
}

func testCancelled(t *testing.T, e store.Engine) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Txn(ctx, store.Op{Key: "/a"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Txn: %v, want context.Canceled", err)
	}
	if _, err := e.Revision(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Revision: %v, want context.Canceled", err)
	}
	if err := e.Watch(ctx, "/", 0, func(store.Batch) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch: %v, want context.Canceled", err)
	}
}

func testClose(t *testing.T, e store.Engine) {
	rev := put(t, e, "/a", "x")
	w := watch(t, e, "/", rev-1)
	w.until(rev)
	if err := e.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if err := w.failed(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Close ended the watch with %v, want ErrClosed", err)
	}
	if _, err := e.Txn(t.Context(), store.Op{Key: "/b"}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Txn after Close: %v, want ErrClosed", err)
	}
	if _, err := e.Get(t.Context(), "/a"); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Get after Close: %v, want ErrClosed", err)
	}
}
