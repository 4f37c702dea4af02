package pebble

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"skiff/internal/store"
)

func put(t *testing.T, e *Engine, op store.Op) int64 {
	t.Helper()
	op.Expect = store.Any
	revision, err := e.Txn(t.Context(), op)
	if err != nil {
		t.Fatalf("Txn of %s: %v", op.Key, err)
	}
	return revision
}

func shut(t *testing.T, e *Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// next is the first batch with events after a revision.
func next(t *testing.T, e *Engine, after int64) []store.Event {
	t.Helper()
	var events []store.Event
	enough := errors.New("enough")
	err := e.Watch(t.Context(), "/", after, func(b store.Batch) error {
		if events = b.Events; len(events) > 0 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatalf("Watch: %v", err)
	}
	return events
}

func TestStartsAtRevisionOne(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		e := open(t, dir)
		if revision, err := e.Revision(t.Context()); err != nil || revision != 1 {
			t.Errorf("Revision = %d, %v, want 1", revision, err)
		}
		shut(t, e)
	}
	if revision := put(t, open(t, dir), store.Op{Key: "/a"}); revision != 2 {
		t.Errorf("the first transaction made revision %d, want 2", revision)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	first := put(t, e, store.Op{Key: "/a", Value: []byte("1")})
	put(t, e, store.Op{Key: "/a", Value: []byte("2")})
	last := put(t, e, store.Op{Key: "/a", Delete: true})
	shut(t, e)

	e = open(t, dir)
	if revision, err := e.Revision(t.Context()); err != nil || revision != last {
		t.Fatalf("Revision = %d, %v, want %d", revision, err, last)
	}
	if events := next(t, e, first); len(events) != 2 || string(events[0].Value) != "2" || !events[1].Deleted {
		t.Errorf("history after reopening: %+v, want an update and a removal", events)
	}
	if err := e.Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	put(t, e, store.Op{Key: "/b"}) // makes the compaction durable
	shut(t, e)

	e = open(t, dir)
	compacted := (*store.CompactedError)(nil)
	if err := e.Watch(t.Context(), "/", first, func(store.Batch) error { return nil }); !errors.As(err, &compacted) || compacted.Oldest != last {
		t.Errorf("Watch after reopening a compacted store: %v, want a CompactedError", err)
	}
	if revision := put(t, e, store.Op{Key: "/c"}); revision != last+2 {
		t.Errorf("the next revision is %d, want %d", revision, last+2)
	}
}

// Compaction leaves nothing behind of what it drops.
func TestCompactDropsAll(t *testing.T) {
	e := open(t, t.TempDir())
	for i := range 3000 {
		put(t, e, store.Op{Key: fmt.Sprintf("/%d", i%10), Value: []byte("x"), Delete: i%7 == 6})
	}
	for i := range 10 {
		put(t, e, store.Op{Key: fmt.Sprintf("/%d", i), Delete: true})
	}
	last := put(t, e, store.Op{Key: "/last"})
	if err := e.Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	it, err := e.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	var left []string
	for ok := it.First(); ok; ok = it.Next() {
		if it.Key()[0] != kindMeta {
			left = append(left, string(it.Key()[:1]))
		}
	}
	if got := strings.Join(left, ""); got != "crv" {
		t.Errorf("records of kinds %q are left, want one of c, r and v for the last key", got)
	}
}

func TestDecodedIsHandedOn(t *testing.T) {
	e := open(t, t.TempDir())
	type object struct{ name string }
	o := &object{"a"}
	got := make(chan any, 1)
	var g sync.WaitGroup
	g.Go(func() {
		enough := errors.New("enough")
		_ = e.Watch(t.Context(), "/", 1, func(b store.Batch) error {
			if len(b.Events) == 0 {
				return nil
			}
			got <- b.Events[0].Decoded
			return enough
		})
	})
	put(t, e, store.Op{Key: "/a", Value: []byte("x"), Decoded: o})
	g.Wait()
	if d := <-got; d != any(o) {
		t.Errorf("Event.Decoded = %v, want the very object of the write", d)
	}
}

func TestTTLSurvivesRestart(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1_000_000, 0))
	o := Options{Dir: t.TempDir(), Clock: clock}
	e, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 600 { // more than are removed at once
		put(t, e, store.Op{Key: fmt.Sprintf("/short/%d", i), TTL: 60})
	}
	put(t, e, store.Op{Key: "/long", TTL: 600})
	last := put(t, e, store.Op{Key: "/ever"})
	shut(t, e)

	clock.Step(2 * time.Minute)
	if e, err = Open(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	gone := 0
	for after := last; gone < 600; {
		for _, event := range next(t, e, after) {
			if !event.Deleted || !strings.HasPrefix(event.Key, "/short/") || event.ModRevision != after+1 {
				t.Fatalf("event %+v after %d, want the removal of a short-lived key", event, after)
			}
			after = event.ModRevision
			gone++
		}
	}
	for !clock.HasWaiters() {
		time.Sleep(time.Millisecond)
	}
	clock.Step(10 * time.Minute)
	if events := next(t, e, last+600); len(events) != 1 || events[0].Key != "/long" {
		t.Errorf("events %+v, want the removal of /long", events)
	}
	if _, err := e.Get(t.Context(), "/ever"); err != nil {
		t.Errorf("Get(/ever): %v", err)
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	if _, err := Open(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second Open: %v, want it to say that the directory is in use", err)
	}
	shut(t, e)
	shut(t, open(t, dir))
}

// A torn tail of the newest log is what a crash leaves: it is dropped.
func TestTornTail(t *testing.T) {
	source := t.TempDir()
	e := open(t, source)
	last := put(t, e, store.Op{Key: "/a", Value: bytes.Repeat([]byte("x"), 500)})
	put(t, e, store.Op{Key: "/b", Value: bytes.Repeat([]byte("x"), 500)})
	dir := t.TempDir()
	copyDir(t, source, dir) // as it is on disk while in use
	wal := newest(t, dir, ".log")
	content, err := os.ReadFile(wal)
	if err != nil {
		t.Fatal(err)
	}
	content = bytes.TrimRight(content, "\x00")
	if err := os.WriteFile(wal, content[:len(content)-100], 0o600); err != nil {
		t.Fatal(err)
	}
	e = open(t, dir)
	if revision, err := e.Revision(t.Context()); err != nil || revision != last {
		t.Errorf("Revision = %d, %v, want %d", revision, err, last)
	}
	if _, err := e.Get(t.Context(), "/a"); err != nil {
		t.Errorf("Get of what was before the tail: %v", err)
	}
}

// Damage anywhere else is reported, with what to do.
func TestDamage(t *testing.T) {
	source := t.TempDir()
	e := open(t, source)
	for i := range 2000 {
		put(t, e, store.Op{Key: fmt.Sprintf("/%d", i), Value: bytes.Repeat([]byte("x"), 100)})
	}
	dir := t.TempDir()
	copyDir(t, source, dir)
	wal := newest(t, dir, ".log")
	content, err := os.ReadFile(wal)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64 {
		content[len(bytes.TrimRight(content, "\x00"))/2+i] ^= 0xff
	}
	if err := os.WriteFile(wal, content, 0o600); err != nil {
		t.Fatal(err)
	}
	e, err = Open(Options{Dir: dir})
	if err == nil {
		e.Close()
		t.Fatal("a log that is damaged in the middle was opened")
	}
	for _, part := range []string{dir, "damaged", "restore a snapshot"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
}

func TestRestore(t *testing.T) {
	e := open(t, t.TempDir())
	for i := range 100 {
		put(t, e, store.Op{Key: fmt.Sprintf("/%02d", i%40), Value: bytes.Repeat([]byte{byte(i)}, 20_000)})
	}
	last := put(t, e, store.Op{Key: "/ttl", TTL: 3600})
	var snapshot bytes.Buffer
	if err := e.Snapshot(t.Context(), &snapshot); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	if err := Restore(Options{Dir: dir}, bytes.NewReader(snapshot.Bytes()[:snapshot.Len()-1])); !errors.Is(err, store.ErrSnapshot) {
		t.Errorf("Restore of a snapshot without its end: %v, want ErrSnapshot", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) > 0 {
		t.Errorf("the failed Restore left %v, %v", entries, err)
	}
	if err := Restore(Options{Dir: dir}, bytes.NewReader(snapshot.Bytes())); err != nil {
		t.Fatalf("Restore: %v", err)
	}
	if err := Restore(Options{Dir: dir}, bytes.NewReader(snapshot.Bytes())); err == nil {
		t.Error("Restore over a database went through")
	}
	restored := open(t, dir)
	var again bytes.Buffer
	if err := restored.Snapshot(t.Context(), &again); err != nil || !bytes.Equal(snapshot.Bytes(), again.Bytes()) {
		t.Errorf("the restored database has another snapshot (%v)", err)
	}
	compacted := (*store.CompactedError)(nil)
	if err := restored.Watch(t.Context(), "/", last-2, func(store.Batch) error { return nil }); !errors.As(err, &compacted) {
		t.Errorf("Watch from before the snapshot: %v, want a CompactedError", err)
	}
	if revision := put(t, restored, store.Op{Key: "/new"}); revision != last+1 {
		t.Errorf("the next revision is %d, want %d", revision, last+1)
	}
	if events := next(t, restored, last); len(events) != 1 || events[0].Key != "/new" {
		t.Errorf("events after the snapshot: %+v", events)
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// newest is the last file with a suffix.
func newest(t *testing.T, dir, suffix string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s file in %s (%v)", suffix, dir, err)
	}
	return files[len(files)-1]
}
