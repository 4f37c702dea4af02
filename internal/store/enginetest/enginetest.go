// Package enginetest says in tests what every storage engine must do.
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

// timeout is for what should take milliseconds, also on a busy machine.
const timeout = 30 * time.Second

// Run runs the suite. open returns an empty engine; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) store.Engine) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, store.Engine)
	}{
		{"Empty", testEmpty},
		{"CreateUpdateDelete", testCreateUpdateDelete},
		{"Conflict", testConflict},
		{"TxnIsAtomic", testTxnIsAtomic},
		{"TxnOfNothing", testTxnOfNothing},
		{"BadTxn", testBadTxn},
		{"RacingTxns", testRacingTxns},
		{"Range", testRange},
		{"RangeAtRevision", testRangeAtRevision},
		{"RangeStopsAtError", testRangeStopsAtError},
		{"RangeIsConsistent", testRangeIsConsistent},
		{"KeyOrder", testKeyOrder},
		{"Values", testValues},
		{"Compact", testCompact},
		{"CompactUnderReaders", testCompactUnderReaders},
		{"WatchReplay", testWatchReplay},
		{"WatchLive", testWatchLive},
		{"WatchFuture", testWatchFuture},
		{"WatchProgress", testWatchProgress},
		{"WatchStops", testWatchStops},
		{"WatchSlow", testWatchSlow},
		{"WatchConcurrent", testWatchConcurrent},
		{"TTL", testTTL},
		{"Snapshot", testSnapshot},
		{"Cancelled", testCancelled},
		{"Close", testClose},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := open(t)
			t.Cleanup(func() {
				if err := e.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test.run(t, e)
		})
	}
}

func testEmpty(t *testing.T, e store.Engine) {
	first := revision(t, e)
	if first < 1 {
		t.Errorf("an empty store has revision %d, want at least 1", first)
	}
	if _, err := e.Get(t.Context(), "/a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get of a missing key: %v, want ErrNotFound", err)
	}
	if kvs, at := list(t, e, "", store.RangeOptions{}); len(kvs) != 0 || at != first {
		t.Errorf("Range of an empty store: %v at %d, want none at %d", kvs, at, first)
	}
}

func testCreateUpdateDelete(t *testing.T, e store.Engine) {
	start := revision(t, e)
	for i, step := range []struct {
		op   store.Op
		want store.KV // by distance from start
	}{
		{store.Op{Key: "/a", Value: []byte("1")}, store.KV{CreateRevision: 1, ModRevision: 1, Value: []byte("1")}},
		{store.Op{Key: "/a", Value: []byte("2"), Expect: start + 1}, store.KV{CreateRevision: 1, ModRevision: 2, Value: []byte("2")}},
		{store.Op{Key: "/a", Value: []byte("3"), Expect: store.Any}, store.KV{CreateRevision: 1, ModRevision: 3, Value: []byte("3")}},
		{store.Op{Key: "/a", Delete: true, Expect: start + 3}, store.KV{}},
		{store.Op{Key: "/a", Value: []byte("5"), Expect: 0}, store.KV{CreateRevision: 5, ModRevision: 5, Value: []byte("5")}},
		{store.Op{Key: "/a", Delete: true, Expect: store.Any}, store.KV{}},
		{store.Op{Key: "/a", Value: []byte("7"), Expect: store.Any}, store.KV{CreateRevision: 7, ModRevision: 7, Value: []byte("7")}},
	} {
		rev := txn(t, e, step.op)
		if want := start + int64(i) + 1; rev != want || revision(t, e) != want {
			t.Fatalf("step %d made revision %d (store: %d), want %d", i, rev, revision(t, e), want)
		}
		kv, err := e.Get(t.Context(), "/a")
		if step.op.Delete {
			if !errors.Is(err, store.ErrNotFound) {
				t.Fatalf("step %d: Get after delete: %v, %v", i, kv, err)
			}
			continue
		}
		step.want.Key = "/a"
		step.want.CreateRevision += start
		step.want.ModRevision += start
		if err != nil || !equalKV(kv, step.want) {
			t.Fatalf("step %d: Get = %v, %v, want %v", i, kv, err, step.want)
		}
	}
}

func testConflict(t *testing.T, e store.Engine) {
	old := put(t, e, "/a", "1")
	current := put(t, e, "/a", "2")
	for _, test := range []struct {
		name   string
		op     store.Op
		actual int64
	}{
		{"create what exists", store.Op{Key: "/a", Value: []byte("x")}, current},
		{"update an old revision", store.Op{Key: "/a", Value: []byte("x"), Expect: old}, current},
		{"delete an old revision", store.Op{Key: "/a", Delete: true, Expect: old}, current},
		{"update what does not exist", store.Op{Key: "/b", Value: []byte("x"), Expect: current}, 0},
		{"delete what does not exist", store.Op{Key: "/b", Delete: true, Expect: current}, 0},
	} {
		_, err := e.Txn(t.Context(), test.op)
		want := store.ConflictError{Key: test.op.Key, Expected: test.op.Expect, Actual: test.actual}
		if conflict := (*store.ConflictError)(nil); !errors.As(err, &conflict) || *conflict != want {
			t.Errorf("%s: %v, want %v", test.name, err, &want)
		}
	}
	if rev := revision(t, e); rev != current {
		t.Errorf("conflicts moved the revision from %d to %d", current, rev)
	}
	deleted := txn(t, e, store.Op{Key: "/a", Delete: true, Expect: current})
	_, err := e.Txn(t.Context(), store.Op{Key: "/a", Value: []byte("x"), Expect: current})
	if conflict := (*store.ConflictError)(nil); !errors.As(err, &conflict) || conflict.Actual != 0 {
		t.Errorf("update of a key deleted at %d: %v, want a conflict with 0", deleted, err)
	}
}

func testTxnIsAtomic(t *testing.T, e store.Engine) {
	a := put(t, e, "/a", "1")
	before := revision(t, e)
	_, err := e.Txn(t.Context(),
		store.Op{Key: "/c", Value: []byte("x")},
		store.Op{Key: "/a", Delete: true, Expect: a},
		store.Op{Key: "/b", Value: []byte("x"), Expect: 7})
	if conflict := (*store.ConflictError)(nil); !errors.As(err, &conflict) || conflict.Key != "/b" {
		t.Fatalf("Txn = %v, want a conflict of /b", err)
	}
	if kvs, at := list(t, e, "/", store.RangeOptions{}); at != before || keys(kvs) != "/a" {
		t.Errorf("after a failed transaction: %s at %d, want /a at %d", keys(kvs), at, before)
	}
	rev := txn(t, e,
		store.Op{Key: "/c", Value: []byte("x")},
		store.Op{Key: "/a", Delete: true, Expect: a},
		store.Op{Key: "/b", Value: []byte("x")})
	if rev != before+1 {
		t.Errorf("a transaction of three keys made revision %d, want %d", rev, before+1)
	}
	kvs, _ := list(t, e, "/", store.RangeOptions{})
	if keys(kvs) != "/b /c" || kvs[0].ModRevision != rev || kvs[1].ModRevision != rev {
		t.Errorf("after the transaction: %v, want /b and /c at %d", kvs, rev)
	}
	w := watch(t, e, "/", before)
	events := w.until(rev)
	if len(events) != 3 {
		t.Fatalf("the transaction gave events %v, want 3", events)
	}
	for _, event := range events {
		if event.ModRevision != rev || event.Deleted != (event.Key == "/a") {
			t.Errorf("event %+v, want revision %d", event, rev)
		}
	}
}

// A removal of nothing is no change, so it makes no revision.
func testTxnOfNothing(t *testing.T, e store.Engine) {
	before := put(t, e, "/a", "1")
	for _, expect := range []int64{0, store.Any} {
		if rev := txn(t, e, store.Op{Key: "/none", Delete: true, Expect: expect}); rev != before {
			t.Errorf("removal of nothing with Expect %d gave revision %d, want %d", expect, rev, before)
		}
	}
	rev := txn(t, e, store.Op{Key: "/none", Delete: true, Expect: store.Any}, store.Op{Key: "/b", Value: []byte("x")})
	if rev != before+1 {
		t.Errorf("revision %d, want %d", rev, before+1)
	}
	if events := watch(t, e, "/", before).until(rev); len(events) != 1 || events[0].Key != "/b" {
		t.Errorf("events %v, want one of /b", events)
	}
}

func testBadTxn(t *testing.T, e store.Engine) {
	before := revision(t, e)
	for _, test := range []struct {
		name string
		ops  []store.Op
	}{
		{"no operations", nil},
		{"empty key", []store.Op{{Value: []byte("x")}}},
		{"NUL in key", []store.Op{{Key: "/a\x00b"}}},
		{"same key twice", []store.Op{{Key: "/a", Expect: store.Any}, {Key: "/a", Delete: true, Expect: store.Any}}},
		{"negative TTL", []store.Op{{Key: "/a", TTL: -1}}},
	} {
		if rev, err := e.Txn(t.Context(), test.ops...); err == nil {
			t.Errorf("%s was accepted at revision %d", test.name, rev)
		}
	}
	if rev := revision(t, e); rev != before {
		t.Errorf("bad transactions moved the revision from %d to %d", before, rev)
	}
}

// Many writers increment counters by compare-and-swap: no increment is lost and
// no revision is given twice.
func testRacingTxns(t *testing.T, e store.Engine) {
	const writers, rounds, counters = 8, 25, 3
	start := revision(t, e)
	var mu sync.Mutex
	seen := map[int64]bool{}
	parallel(t, writers, func(writer int) error {
		r := rand.New(rand.NewPCG(1, uint64(writer)))
		for done := 0; done < rounds; {
			key := fmt.Sprintf("/counter/%d", r.IntN(counters))
			kv, err := e.Get(t.Context(), key)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			value := append(bytes.Clone(kv.Value), byte(writer))
			rev, err := e.Txn(t.Context(), store.Op{Key: key, Value: value, Expect: kv.ModRevision})
			if conflict := (*store.ConflictError)(nil); errors.As(err, &conflict) {
				continue
			}
			if err != nil {
				return err
			}
			done++
			mu.Lock()
			twice := seen[rev]
			seen[rev] = true
			mu.Unlock()
			if twice {
				return fmt.Errorf("revision %d was given twice", rev)
			}
		}
		return nil
	})
	kvs, at := list(t, e, "/counter/", store.RangeOptions{})
	total := 0
	for _, kv := range kvs {
		total += len(kv.Value)
	}
	if total != writers*rounds || at != start+writers*rounds {
		t.Errorf("%d increments at revision %d, want %d at %d", total, at, writers*rounds, start+writers*rounds)
	}
}

func testRange(t *testing.T, e store.Engine) {
	for _, key := range []string{"/b/2", "/a/1", "/b/1", "/c/1", "/b", "/b0", "/b/3"} {
		put(t, e, key, "v"+key)
	}
	newest := txn(t, e, store.Op{Key: "/b/2", Delete: true, Expect: store.Any})
	for _, test := range []struct {
		prefix string
		o      store.RangeOptions
		want   string
	}{
		{"", store.RangeOptions{}, "/a/1 /b /b/1 /b/3 /b0 /c/1"},
		{"/b/", store.RangeOptions{}, "/b/1 /b/3"},
		{"/b", store.RangeOptions{}, "/b /b/1 /b/3 /b0"},
		{"/d", store.RangeOptions{}, ""},
		{"/b/", store.RangeOptions{Limit: 1}, "/b/1"},
		{"/b/", store.RangeOptions{Limit: 2}, "/b/1 /b/3"},
		{"/b/", store.RangeOptions{From: "/b/1"}, "/b/1 /b/3"},
		{"/b/", store.RangeOptions{From: "/b/1x"}, "/b/3"},
		{"/b/", store.RangeOptions{From: "/b/2", Limit: 1}, "/b/3"},
		{"/b/", store.RangeOptions{From: "/a"}, "/b/1 /b/3"},
		{"/b/", store.RangeOptions{From: "/c"}, ""},
		{"/b/", store.RangeOptions{At: newest - 1}, "/b/1 /b/2 /b/3"},
		{"/b/", store.RangeOptions{At: newest - 1, From: "/b/2", Limit: 1}, "/b/2"},
	} {
		kvs, at := list(t, e, test.prefix, test.o)
		want := newest
		if test.o.At != 0 {
			want = test.o.At
		}
		if got := keys(kvs); got != test.want || at != want {
			t.Errorf("Range(%q, %+v) = %q at %d, want %q at %d", test.prefix, test.o, got, at, test.want, want)
		}
		for _, kv := range kvs {
			if string(kv.Value) != "v"+kv.Key {
				t.Errorf("Range(%q, %+v) gave %q for %s", test.prefix, test.o, kv.Value, kv.Key)
			}
		}
	}
}

// Every past revision reads as it was.
func testRangeAtRevision(t *testing.T, e store.Engine) {
	start := revision(t, e)
	model := newModel(start)
	r := rand.New(rand.NewPCG(2, 2))
	for range 120 {
		model.random(t, e, r)
	}
	for rev := start; rev <= model.newest; rev++ {
		kvs, at := list(t, e, "/m/", store.RangeOptions{At: rev})
		if want := model.at[rev]; at != rev || !slices.EqualFunc(kvs, want, equalKV) {
			t.Fatalf("Range at %d = %v at %d, want %v", rev, kvs, at, want)
		}
	}
	_, err := e.Range(t.Context(), "/m/", store.RangeOptions{At: model.newest + 1}, func(store.KV) error { return nil })
	if future := (*store.FutureRevisionError)(nil); !errors.As(err, &future) || future.Newest != model.newest || future.Requested != model.newest+1 {
		t.Errorf("Range in the future: %v, want a FutureRevisionError with newest %d", err, model.newest)
	}
}

func testRangeStopsAtError(t *testing.T, e store.Engine) {
	for i := range 5 {
		put(t, e, fmt.Sprintf("/%d", i), "x")
	}
	stop := errors.New("stop")
	n := 0
	_, err := e.Range(t.Context(), "/", store.RangeOptions{}, func(store.KV) error {
		if n++; n == 3 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 3 {
		t.Errorf("Range gave %v after %d calls, want fn's error after 3", err, n)
	}
}

// A long range sees one revision even while writers move two keys together.
func testRangeIsConsistent(t *testing.T, e store.Engine) {
	move := func(i int) []store.Op {
		value := fmt.Append(nil, i)
		return []store.Op{{Key: "/p/a", Value: value, Expect: store.Any}, {Key: "/p/z", Value: value, Expect: store.Any}}
	}
	txn(t, e, move(0)...)
	for i := range 50 {
		put(t, e, fmt.Sprintf("/p/m%02d", i), "x")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			if _, err := e.Txn(ctx, move(i)...); err != nil && ctx.Err() == nil {
				t.Errorf("Txn: %v", err)
			}
		}
	})
	for range 30 {
		kvs, at := list(t, e, "/p/", store.RangeOptions{})
		a, z := kvs[0], kvs[len(kvs)-1]
		if a.ModRevision != z.ModRevision || string(a.Value) != string(z.Value) || a.ModRevision > at {
			t.Errorf("Range at %d saw %v and %v", at, a, z)
		}
	}
	cancel()
	writer.Wait()
}

func testKeyOrder(t *testing.T, e store.Engine) {
	want := []string{"!", "/", "/a", "/a!", "/a-b", "/a/", "/a/b", "/a0", "/a\xff", "/a\xff\xff", "/b", "a", "\xff", "\xff\x01", "\xff\xff"}
	for _, i := range rand.New(rand.NewPCG(3, 3)).Perm(len(want)) {
		put(t, e, want[i], "1")
		put(t, e, want[i], "2")
	}
	kvs, _ := list(t, e, "", store.RangeOptions{})
	if keys(kvs) != strings.Join(want, " ") {
		t.Errorf("keys are in order %q, want %q", keys(kvs), strings.Join(want, " "))
	}
	kvs, _ = list(t, e, "\xff", store.RangeOptions{})
	if keys(kvs) != "\xff \xff\x01 \xff\xff" {
		t.Errorf("keys below \\xff: %q", keys(kvs))
	}
	for _, key := range want {
		if kv, err := e.Get(t.Context(), key); err != nil || string(kv.Value) != "2" || kv.Key != key {
			t.Errorf("Get(%q) = %v, %v", key, kv, err)
		}
	}
}

func testValues(t *testing.T, e store.Engine) {
	random := make([]byte, 1_000_000)
	r := rand.NewChaCha8([32]byte{})
	r.Read(random)
	for name, value := range map[string][]byte{"empty": {}, "nil": nil, "zeros": make([]byte, 300), "binary": {0, 1, 255}, "large": random} {
		txn(t, e, store.Op{Key: "/" + name, Value: value})
		kv, err := e.Get(t.Context(), "/"+name)
		if err != nil || !bytes.Equal(kv.Value, value) {
			t.Errorf("the %s value came back with %d bytes (%v), want %d", name, len(kv.Value), err, len(value))
		}
	}
}
