package cache_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"

	"skiff/internal/apis"
	"skiff/internal/store"
	"skiff/internal/store/cache"
	"skiff/internal/store/pebble"
)

// patience bounds every wait; it is only ever reached by a failing test.
const patience = time.Minute

// Bounds of a collection's window of events and of a watcher's queue.
const (
	minEvents = 128
	maxEvents = 16384
	maxQueue  = 1 << 16
)

// fixture is a cache of pods over an engine.
type fixture struct {
	*testing.T
	engine *pebble.Engine
	clock  *testclock.FakeClock
	*cache.Cache
	pods *cache.Collection
	// decoded counts objects that were decoded.
	decoded atomic.Int64
}

const prefix = "/registry/pods"

func start(t *testing.T) *fixture {
	t.Helper()
	engine, err := pebble.Open(pebble.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, engine: engine, clock: testclock.NewFakeClock(time.Now())}
	f.Cache = cache.New(engine, f.clock, slog.New(slog.DiscardHandler))
	f.pods, err = f.Add(t.Context(), prefix, f.decode, map[string]func(apis.Object) string{
		"spec.nodeName": func(o apis.Object) string { return o.(*corev1.Pod).Spec.NodeName },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Cache.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) decode(value []byte) (apis.Object, error) {
	f.decoded.Add(1)
	p := &corev1.Pod{}
	return p, json.Unmarshal(value, p)
}

// write stores pods, each given as namespace/name or namespace/name@node, in one
// transaction; a leading minus deletes one. It returns when the cache shows it.
func (f *fixture) write(pods ...string) int64 {
	f.Helper()
	var ops []store.Op
	for _, p := range pods {
		key, node, _ := strings.Cut(p, "@")
		key, gone := strings.CutPrefix(key, "-")
		namespace, name, _ := strings.Cut(key, "/")
		op := store.Op{Key: prefix + "/" + key, Expect: store.Any, Delete: gone}
		if !gone {
			value, err := json.Marshal(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PodSpec{NodeName: node}})
			if err != nil {
				f.Fatal(err)
			}
			op.Value = value
		}
		ops = append(ops, op)
	}
	rev, err := f.engine.Txn(f.Context(), ops...)
	if err != nil {
		f.Fatal(err)
	}
	if err := f.WaitFor(f.Context(), rev); err != nil {
		f.Fatal(err)
	}
	return rev
}

// names are the pods of a snapshot, with the revisions that they have there.
func names(s cache.Snapshot) map[string]int64 {
	out := map[string]int64{}
	s.Ascend(prefix+"/", "", func(e *cache.Entry) bool {
		out[strings.TrimPrefix(e.Key, prefix+"/")] = e.Revision
		return true
	})
	return out
}

// take waits until a watcher has returned n events.
func take(t *testing.T, w *cache.Watcher, n int) (out []*cache.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(out) < n {
		events, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(out), n, err)
		}
		out = append(out, events...)
	}
	return out
}

func describe(events []*cache.Event) (out []string) {
	for _, ev := range events {
		kind := "MODIFIED"
		switch {
		case ev.Old == nil:
			kind = "ADDED"
		case ev.New == nil:
			kind = "DELETED"
		}
		out = append(out, kind+" "+strings.TrimPrefix(ev.Entry().Key, prefix+"/"))
	}
	return out
}

func TestScopes(t *testing.T) {
	f := start(t)
	f.write("a/one@n1", "b/one@n2")
	scopes := map[string]cache.Scope{
		"all": {}, "namespace": {Namespace: "a"}, "key": {Key: f.pods.Key("a", "one")}, "field": {Field: "spec.nodeName", Value: "n1"},
	}
	want := map[string][]string{
		"all": {"MODIFIED a/one", "ADDED a/two", "MODIFIED b/one", "DELETED a/one", "DELETED b/one"},
		// A pod that leaves the node is of interest, and one that comes.
		"namespace": {"MODIFIED a/one", "ADDED a/two", "DELETED a/one"}, "key": {"MODIFIED a/one", "DELETED a/one"},
		"field": {"MODIFIED a/one", "MODIFIED b/one", "DELETED b/one"},
	}
	from := f.Revision()
	live := map[string]*cache.Watcher{}
	for name, scope := range scopes {
		_, live[name] = f.pods.SnapshotAndWatch(scope)
	}
	f.write("a/one@n3")
	f.write("a/two@n4")
	f.write("b/one@n1")
	f.write("-a/one")
	f.write("-b/one")
	for name, scope := range scopes {
		resumed, err := f.pods.Watch(scope, from)
		if err != nil {
			t.Fatal(err)
		}
		for how, w := range map[string]*cache.Watcher{"live": live[name], "resumed": resumed} {
			events := take(t, w, len(want[name]))
			if got := describe(events); !slices.Equal(got, want[name]) {
				t.Errorf("%s, %s: %v, want %v", name, how, got, want[name])
			}
			if rev, ok := w.Progress(); !ok || rev != f.Revision() {
				t.Errorf("%s, %s: progress %d %v", name, how, rev, ok)
			}
			w.Stop()
			if _, err := w.Next(t.Context()); !errors.Is(err, cache.ErrClosed) {
				t.Errorf("%s, %s: after the end: %v", name, how, err)
			}
		}
	}
	if s := f.pods.Stats(); s.Watchers != 0 || s.Received != 7 || s.Objects != 1 {
		t.Errorf("%+v", s)
	}
}

// TestLastStates has what watchers are shown of objects that are gone.
func TestLastStates(t *testing.T) {
	f := start(t)
	made := f.write("a/one@n1")
	_, w := f.pods.SnapshotAndWatch(cache.Scope{})
	changed := f.write("a/one@n2")
	gone := f.write("-a/one")
	events := take(t, w, 2)
	left, err := events[0].Left().Object()
	if err != nil {
		t.Fatal(err)
	}
	last, err := events[1].Last.Object()
	if err != nil {
		t.Fatal(err)
	}
	old, err := events[0].Old.Object()
	if err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]string{
		strconv.FormatInt(made, 10) + " n1":    old.GetResourceVersion() + " " + old.(*corev1.Pod).Spec.NodeName,
		strconv.FormatInt(changed, 10) + " n1": left.GetResourceVersion() + " " + left.(*corev1.Pod).Spec.NodeName,
		strconv.FormatInt(gone, 10) + " n2":    last.GetResourceVersion() + " " + last.(*corev1.Pod).Spec.NodeName,
	} {
		if got != what {
			t.Errorf("%s, want %s", got, what)
		}
	}
}

func TestWindow(t *testing.T) {
	f := start(t)
	first := f.write("a/p0")
	const old = 300
	for i := range old {
		f.write(fmt.Sprint("a/p", i))
	}
	// While they are young all are kept.
	w, err := f.pods.Watch(cache.Scope{}, first)
	if err != nil {
		t.Fatal(err)
	}
	take(t, w, old)
	w.Stop()
	f.clock.Step(cache.Window + time.Second)
	newest := f.write("a/new")
	var compacted *store.CompactedError
	if _, err := f.pods.Watch(cache.Scope{}, first); !errors.As(err, &compacted) || compacted.Requested != first {
		t.Fatalf("watching from before the window: %v", err)
	}
	// The least that is kept, the newest included.
	if compacted.Oldest != newest-minEvents {
		t.Errorf("the oldest is %d, want %d", compacted.Oldest, newest-minEvents)
	}
	if _, err := f.pods.Watch(cache.Scope{}, compacted.Oldest-1); !errors.As(err, &compacted) {
		t.Errorf("just before the window: %v", err)
	}
	if w, err = f.pods.Watch(cache.Scope{}, compacted.Oldest); err != nil {
		t.Fatal(err)
	}
	if got := take(t, w, minEvents); got[0].Revision != compacted.Oldest+1 || got[minEvents-1].Revision != newest {
		t.Errorf("events from %d to %d", got[0].Revision, got[minEvents-1].Revision)
	}
	w.Stop()
}

// TestLongestWindow writes more events than are ever kept.
func TestLongestWindow(t *testing.T) {
	f := start(t)
	first := f.Revision()
	const at = 1024
	for written := 0; written <= maxEvents; written += at {
		f.write(f.batch(at)...)
	}
	var compacted *store.CompactedError
	if _, err := f.pods.Watch(cache.Scope{}, first); !errors.As(err, &compacted) {
		t.Fatalf("watching from the beginning: %v", err)
	}
	w, err := f.pods.Watch(cache.Scope{}, compacted.Oldest)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if n := len(take(t, w, maxEvents-at)); n > maxEvents {
		t.Errorf("%d events are kept, at most %d should be", n, maxEvents)
	}
}

// batch are n pods.
func (f *fixture) batch(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprint("a/p", i))
	}
	return out
}

// TestStatesOfThePast compares lists at every revision with what was written.
func TestStatesOfThePast(t *testing.T) {
	f := start(t)
	random := rand.New(rand.NewPCG(1, 2))
	states := map[int64]map[string]int64{f.Revision(): {}}
	now := map[string]int64{}
	for range 400 {
		changes := map[string]bool{}
		for range 1 + random.IntN(3) {
			changes[fmt.Sprint("a/p", random.IntN(20))] = random.IntN(3) == 0
		}
		var ops []string
		for name, remove := range changes {
			if _, there := now[name]; remove && there {
				ops = append(ops, "-"+name)
			} else {
				ops = append(ops, name)
			}
		}
		rev := f.write(ops...)
		now = maps.Clone(now)
		for _, op := range ops {
			if name, gone := strings.CutPrefix(op, "-"); gone {
				delete(now, name)
			} else {
				now[name] = rev
			}
		}
		states[rev] = now
	}
	check := func(how string, rev int64, s cache.Snapshot) {
		t.Helper()
		if got := names(s); s.Revision != rev || !maps.Equal(got, states[rev]) {
			t.Errorf("%s: revision %d is %v, want %v", how, rev, got, states[rev])
		}
	}
	revisions := slices.Sorted(maps.Keys(states))
	for _, rev := range revisions {
		s, ok := f.pods.At(rev)
		if !ok {
			t.Fatalf("revision %d is not at hand", rev)
		}
		check("from the window", rev, s)
	}
	// Beyond the window the engine knows, and what it told stays at hand.
	f.clock.Step(cache.Window + time.Second)
	states[f.write("a/new")] = nil
	early := revisions[10]
	if _, ok := f.pods.At(early); ok {
		t.Fatalf("revision %d is still at hand", early)
	}
	s, err := f.pods.Reconstruct(t.Context(), early)
	if err != nil {
		t.Fatal(err)
	}
	check("from the engine", early, s)
	if s, ok := f.pods.At(early); !ok {
		t.Errorf("revision %d is not kept for lists that continue", early)
	} else {
		check("kept", early, s)
	}
	f.clock.Step(cache.Window + time.Second)
	f.pods.Pin(f.pods.Snapshot())
	if _, ok := f.pods.At(early); ok {
		t.Errorf("revision %d is kept for ever", early)
	}
	if err := f.Compact(t.Context(), revisions[20]); err != nil {
		t.Fatal(err)
	}
	var compacted *store.CompactedError
	if _, err := f.pods.Reconstruct(t.Context(), early); !errors.As(err, &compacted) {
		t.Errorf("a revision that is compacted: %v", err)
	}
	if _, ok := f.pods.At(f.Revision() + 1); ok {
		t.Error("the future is at hand")
	}
}

// TestSlowWatcher has one watcher that takes nothing: it is told so, and what
// it had waiting is freed. The other one misses nothing.
func TestSlowWatcher(t *testing.T) {
	f := start(t)
	_, slow := f.pods.SnapshotAndWatch(cache.Scope{})
	_, quick := f.pods.SnapshotAndWatch(cache.Scope{})
	defer slow.Stop()
	defer quick.Stop()
	seen := 0
	for written := 0; written <= maxQueue; {
		ops := f.batch(1024)
		f.write(ops...)
		written += len(ops)
		seen += len(take(t, quick, written-seen))
		if seen != written {
			t.Fatalf("the quick watcher has seen %d of %d events", seen, written)
		}
		if _, ok := slow.Progress(); ok {
			t.Fatal("the slow watcher's progress is told though events wait")
		}
	}
	if events, err := slow.Next(t.Context()); !errors.Is(err, cache.ErrFellBehind) || len(events) > 0 {
		t.Errorf("%d events, %v", len(events), err)
	}
	if n := f.pods.Stats().FellBehind; n != 1 {
		t.Errorf("%d watchers fell behind", n)
	}
}

// TestProgress has a writer and watchers that, whenever they hear how far they
// are, have seen all that is older.
func TestProgress(t *testing.T) {
	f := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const rounds = 150
	var watching sync.WaitGroup
	for range 4 {
		_, w := f.pods.SnapshotAndWatch(cache.Scope{Namespace: "a"})
		watching.Go(func() {
			defer w.Stop()
			told, seen := int64(0), int64(0)
			for count := 0; count < rounds; {
				if err := w.Wait(ctx); err != nil {
					t.Error(err)
					return
				}
				events, err := w.Take()
				if err != nil {
					t.Error(err)
					return
				}
				count += len(events)
				for _, ev := range events {
					if ev.Revision <= told {
						t.Errorf("an event of revision %d came after the word that all up to %d had", ev.Revision, told)
					}
					if ev.Revision < seen {
						t.Errorf("revision %d came after %d", ev.Revision, seen)
					}
					seen = ev.Revision
				}
				if rev, ok := w.Progress(); ok {
					told = rev
				}
			}
		})
	}
	for i := range rounds {
		f.write(fmt.Sprint("a/p", i%7), fmt.Sprint("b/p", i%5))
	}
	watching.Wait()
}

// TestSnapshotsStay reads one state while others are written.
func TestSnapshotsStay(t *testing.T) {
	f := start(t)
	f.write(f.batch(100)...)
	s := f.pods.Snapshot()
	before := names(s)
	stop := make(chan struct{})
	var reading sync.WaitGroup
	for range 3 {
		reading.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if !maps.Equal(names(s), before) {
					t.Error("a snapshot changed")
					return
				}
				fresh := f.pods.Snapshot()
				for name, rev := range names(fresh) {
					if rev > fresh.Revision {
						t.Errorf("%s has revision %d in a snapshot of %d", name, rev, fresh.Revision)
						return
					}
				}
			}
		})
	}
	for i := range 200 {
		f.write(fmt.Sprint("a/p", i%100), "-a/p"+strconv.Itoa((i+50)%100))
	}
	close(stop)
	reading.Wait()
	if got := s.Len(); got != 100 || s.Get(f.pods.Key("a", "p7")) == nil {
		t.Errorf("%d pods", got)
	}
}

// TestEncodedOnce has many readers share what the first of them makes.
func TestEncodedOnce(t *testing.T) {
	f := start(t)
	f.write("a/one")
	e := f.pods.Get(f.pods.Key("a", "one"))
	first, err := e.Object()
	if err != nil {
		t.Fatal(err)
	}
	var encoded atomic.Int64
	encode := func(apis.Object) ([]byte, error) {
		encoded.Add(1)
		return append(make([]byte, 0, 100), "form"...), nil
	}
	if _, err := e.Encoded(cache.Format{Version: "v1", Media: "json"}, encode); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for range 16 {
		readers.Go(func() {
			if obj, err := e.Object(); err != nil || obj != first {
				t.Errorf("another object: %v", err)
			}
			data, err := e.Encoded(cache.Format{Version: "v1", Media: "json"}, encode)
			if err != nil || string(data) != "form" {
				t.Errorf("%q %v", data, err)
			}
			// Readers append to what they are given, each to its own copy.
			if string(append(data, '\n')) != "form\n" {
				t.Error("appending failed")
			}
			if other := first.DeepCopyObject().(apis.Object); e.Convert("v2", other) == nil {
				t.Error("nothing was kept")
			}
		})
	}
	readers.Wait()
	if n := f.decoded.Load(); n != 1 {
		t.Errorf("decoded %d times", n)
	}
	if n := encoded.Load(); n != 1 {
		t.Errorf("encoded %d times", n)
	}
	one, ok := e.Converted("v2")
	if again := e.Convert("v2", first.DeepCopyObject().(apis.Object)); !ok || again != one {
		t.Error("a second conversion took the first one's place")
	}
	failed := errors.New("no such form")
	if _, err := e.Encoded(cache.Format{Version: "v1", Media: "other"}, func(apis.Object) ([]byte, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("an encoding that fails: %v", err)
	}
}

func TestUnreadableObject(t *testing.T) {
	f := start(t)
	rev, err := f.engine.Txn(t.Context(), store.Op{Key: f.pods.Key("a", "bad"), Value: []byte("{"), Expect: 0})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.WaitFor(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	e := f.pods.Get(f.pods.Key("a", "bad"))
	if _, err := e.Object(); err == nil {
		t.Error("it was read all the same")
	}
	// It can be removed.
	_, w := f.pods.SnapshotAndWatch(cache.Scope{Field: "spec.nodeName", Value: "n"})
	defer w.Stop()
	f.write("-a/bad")
	if f.pods.Get(e.Key) != nil {
		t.Error("it is still there")
	}
}

func TestReplaceAndRemove(t *testing.T) {
	f := start(t)
	if _, err := f.Replace(prefix, f.decode, nil); err == nil {
		t.Error("a collection was replaced that keeps nothing to read anew")
	}
	f.pods.KeepStored()
	first := f.write("a/one")
	_, w := f.pods.SnapshotAndWatch(cache.Scope{})
	f.write("a/two")
	take(t, w, 1)
	if _, err := f.Add(t.Context(), prefix, f.decode, nil); err == nil {
		t.Error("two collections have the same keys")
	}
	next, err := f.Replace(prefix, f.decode, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(t.Context()); !errors.Is(err, cache.ErrClosed) {
		t.Errorf("a watcher of the old one: %v", err)
	}
	f.write("a/three")
	resumed, err := next.Watch(cache.Scope{}, first)
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(take(t, resumed, 2)); !slices.Equal(got, []string{"ADDED a/two", "ADDED a/three"}) {
		t.Errorf("%v", got)
	}
	bytes := int64(0)
	if _, err := f.engine.Range(t.Context(), prefix+"/", store.RangeOptions{}, func(kv store.KV) error {
		bytes += int64(len(kv.Value))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := next.Stats(); got.Objects != 3 || got.Received != 3 || got.Bytes != bytes {
		t.Errorf("%+v, want %d bytes", got, bytes)
	}
	f.Remove(prefix)
	if _, err := resumed.Next(t.Context()); !errors.Is(err, cache.ErrClosed) {
		t.Errorf("a watcher of one that was removed: %v", err)
	}
	if _, err := f.Replace(prefix, f.decode, nil); err == nil {
		t.Error("what is not there was replaced")
	}
	// A new one is filled before it is returned.
	again, err := f.Add(t.Context(), prefix, f.decode, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again.Len() != 3 {
		t.Errorf("%d objects", again.Len())
	}
}

func TestWaiting(t *testing.T) {
	f := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error, 1)
	go func() { waited <- f.WaitFor(ctx, f.Revision()+100) }()
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for the future: %v", err)
	}
	next := f.Revision() + 1
	go func() { waited <- f.WaitFor(t.Context(), next) }()
	changes := f.pods.Changes()
	if rev := f.write("a/one"); rev != next {
		t.Fatalf("revision %d, want %d", rev, next)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if f.pods.Changes() == changes {
		t.Error("no change was counted")
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Error(err)
	}
}
