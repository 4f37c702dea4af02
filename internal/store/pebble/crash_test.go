package pebble

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"skiff/internal/store"
)

// crashWriters is enough for groups of many writes.
const crashWriters = 24

// ack is a transaction that the store acknowledged.
type ack struct {
	Revision int64
	Writer   int
	N        int
	Delete   bool
}

func (a ack) key(half string) string { return fmt.Sprintf("/w/%02d/%d/%s", a.Writer, a.N%5, half) }

func (a ack) value() string {
	return fmt.Sprintf("%d-%d-%s", a.Writer, a.N, strings.Repeat("x", a.N%300))
}

// ops write two keys, so that half a transaction would be seen.
func (a ack) ops() []store.Op {
	var ops []store.Op
	for _, half := range []string{"a", "b"} {
		ops = append(ops, store.Op{Key: a.key(half), Value: []byte(a.value()), Delete: a.Delete, Expect: store.Any})
	}
	return ops
}

// writeForever writes from many goroutines and reports what was acknowledged,
// until ctx ends. It compacts up to oldest.
func writeForever(ctx context.Context, e *Engine, oldest int64, report func(ack) error) error {
	var g sync.WaitGroup
	errs := make([]error, crashWriters+1)
	for w := range crashWriters {
		g.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				a := ack{Writer: w, N: n, Delete: n%10 == 9}
				var err error
				if a.Revision, err = e.Txn(ctx, a.ops()...); err == nil {
					err = report(a)
				}
				if err != nil && ctx.Err() == nil {
					errs[w] = err
					return
				}
			}
		})
	}
	g.Go(func() {
		if err := e.Compact(ctx, oldest); ctx.Err() == nil {
			errs[crashWriters] = err
		}
	})
	g.Wait()
	return errors.Join(errs...)
}

// ledger is what the store has promised so far.
type ledger struct {
	acks map[int64]ack
	// state and seen are what the history up to seen adds up to.
	state map[string]store.KV
	seen  int64
}

func newLedger() *ledger {
	return &ledger{acks: map[int64]ack{}, state: map[string]store.KV{}, seen: 1}
}

// check opens the store again and holds it to its promises: every acknowledged
// transaction is there, none is there by half, revisions are dense, and history
// adds up to the state.
func (l *ledger) check(t *testing.T, o Options) {
	t.Helper()
	e, err := Open(o)
	if err != nil {
		t.Fatalf("Open after the crash: %v", err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}()
	newest, err := e.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for revision := range l.acks {
		if revision > newest {
			t.Fatalf("revision %d was acknowledged, but the newest is %d", revision, newest)
		}
	}
	if newest > l.seen {
		reached := errors.New("reached")
		err = e.Watch(t.Context(), "", l.seen, func(b store.Batch) error {
			if err := l.apply(b.Events); err != nil {
				return err
			}
			if b.Revision == newest {
				return reached
			}
			return nil
		})
		if !errors.Is(err, reached) {
			t.Fatal(err)
		}
	}
	if l.seen != newest {
		t.Fatalf("the history ends at %d, the newest revision is %d", l.seen, newest)
	}
	n := 0
	at, err := e.Range(t.Context(), "", store.RangeOptions{}, func(kv store.KV) error {
		n++
		if want := l.state[kv.Key]; string(kv.Value) != string(want.Value) || kv.ModRevision != want.ModRevision || kv.CreateRevision != want.CreateRevision {
			return fmt.Errorf("%s is %d/%d, the history says %d/%d", kv.Key, kv.CreateRevision, kv.ModRevision, want.CreateRevision, want.ModRevision)
		}
		return nil
	})
	if err != nil || n != len(l.state) || at != newest {
		t.Fatalf("the state has %d keys at %d (%v), the history says %d at %d", n, at, err, len(l.state), newest)
	}
	clear(l.acks) // all of them were seen in the history
}

// apply takes the events after l.seen, in pairs of one transaction.
func (l *ledger) apply(events []store.Event) error {
	for pair := range slices.Chunk(events, 2) {
		revision := l.seen + 1
		if len(pair) != 2 || pair[0].ModRevision != revision || pair[1].ModRevision != revision ||
			string(pair[0].Value) != string(pair[1].Value) || pair[0].Deleted != pair[1].Deleted {
			return fmt.Errorf("revision %d is not whole: %+v", revision, pair)
		}
		for i, event := range pair {
			if a, ok := l.acks[revision]; ok {
				if event.Key != a.key([]string{"a", "b"}[i]) || event.Deleted != a.Delete || !a.Delete && string(event.Value) != a.value() {
					return fmt.Errorf("revision %d holds %+v, acknowledged was %+v", revision, event, a)
				}
			}
			if event.Deleted {
				delete(l.state, event.Key)
			} else {
				l.state[event.Key] = event.KV
			}
		}
		l.seen = revision
	}
	return nil
}

const crashChild = "SKIFF_TEST_CRASH_CHILD"

// TestKill kills a process that writes, again and again.
func TestKill(t *testing.T) {
	if dir := os.Getenv(crashChild); dir != "" {
		killedChild(t, dir)
		return
	}
	dir := t.TempDir()
	l := newLedger()
	total := 0
	for round := range 20 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), crashChild+"="+dir, "SKIFF_TEST_OLDEST="+strconv.FormatInt(l.seen, 10))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var kill *time.Timer
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var a ack
			if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
				break // the line that the kill cut off
			}
			if kill == nil {
				kill = time.AfterFunc(time.Duration(10+rand.IntN(300))*time.Millisecond, func() { cmd.Process.Kill() })
			}
			if old, twice := l.acks[a.Revision]; twice || a.Revision <= l.seen {
				t.Errorf("revision %d was acknowledged twice: %+v, %+v", a.Revision, old, a)
			}
			l.acks[a.Revision] = a
		}
		if err := cmd.Wait(); err == nil || kill == nil {
			t.Fatalf("round %d: the child was not killed while it wrote (%v)", round, err)
		}
		total += len(l.acks)
		l.check(t, Options{Dir: dir})
	}
	t.Logf("%d acknowledged transactions survived", total)
}

// killedChild writes until it is killed.
func killedChild(t *testing.T, dir string) {
	oldest, err := strconv.ParseInt(os.Getenv("SKIFF_TEST_OLDEST"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Open(Options{Dir: dir, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	t.Fatal(writeForever(t.Context(), e, oldest, func(a ack) error {
		mu.Lock()
		defer mu.Unlock()
		return out.Encode(a)
	}))
}

// TestPowerLoss cuts the power of a simulated disk, which keeps of what was not
// synced any part.
func TestPowerLoss(t *testing.T) {
	l := newLedger()
	disk := vfs.NewCrashableMem()
	r := rand.New(rand.NewPCG(8, rand.Uint64()))
	total := 0
	for range 20 {
		e, err := Open(Options{Dir: "/db", fs: disk, MemTableBytes: 256 << 10})
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var crashed *vfs.MemFS
		stopAt := len(l.acks) + 1 + r.IntN(3000)
		err = writeForever(ctx, e, l.seen, func(a ack) error {
			mu.Lock()
			defer mu.Unlock()
			if crashed != nil {
				return nil
			}
			l.acks[a.Revision] = a
			if len(l.acks) == stopAt {
				crashed = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r})
				cancel()
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		total += len(l.acks)
		disk = crashed
		l.check(t, Options{Dir: "/db", fs: disk})
	}
	t.Logf("%d acknowledged transactions survived", total)
}
