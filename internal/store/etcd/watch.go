package etcd

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/internal/store"
)

const (
	// progressEvery is how often the cluster is asked for progress while a
	// watch is behind a revision that Revision returned. An answer may be
	// lacking while a watch still catches up, so asking once is not enough.
	progressEvery = 50 * time.Millisecond
	// retryFirst and retryMost bound the pause before a watch that broke is
	// taken up again.
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Watch implements store.Engine. It survives the loss of a member or of the
// connection.
func (e *Engine) Watch(caller context.Context, prefix string, after int64, fn func(store.Batch) error) error {
	ctx, end, err := e.begin(caller)
	if err != nil {
		return err
	}
	defer end()
	w := &watcher{reached: after}
	e.progress.add(w)
	defer e.progress.remove(w)
	pause := retryFirst
	for {
		before := w.reached
		err := e.watchOnce(ctx, prefix, w, fn)
		if err.final {
			return err.error
		}
		if caller.Err() != nil || e.stop.Err() != nil {
			return e.failure(caller, err.error)
		}
		if w.reached > before {
			pause = retryFirst
		}
		e.o.Log.Info("Watch broke; resuming it", "prefix", prefix, "revision", w.reached, "err", err.error)
		select {
		case <-e.o.Clock.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, retryMost)
	}
}

// watchError ends one attempt at a watch; a final one ends the watch.
type watchError struct {
	error
	final bool
}

// watchOnce delivers what comes after w.reached until etcd's watch ends.
func (e *Engine) watchOnce(ctx context.Context, prefix string, w *watcher, fn func(store.Batch) error) watchError {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	key, upper := e.o.Prefix+prefix, clientv3.GetPrefixRangeEnd(e.o.Prefix+prefix)
	if key == "" {
		key = "\x00"
	}
	responses := e.client.Watch(streamContext(ctx), key, clientv3.WithRange(upper),
		clientv3.WithRev(w.reached+1), clientv3.WithProgressNotify(), clientv3.WithFragment())
	for r := range responses {
		if r.CompactRevision != 0 {
			return watchError{&store.CompactedError{Requested: w.reached + 1, Oldest: r.CompactRevision}, true}
		}
		if err := r.Err(); err != nil {
			return watchError{err, false}
		}
		b := store.Batch{Revision: r.Header.Revision}
		if len(r.Events) > 0 {
			b.Events = e.events(r.Events)
			// The header may be of a later revision, whose events follow.
			b.Revision = b.Events[len(b.Events)-1].ModRevision
		} else if !r.IsProgressNotify() || b.Revision <= w.reached {
			continue
		}
		if err := fn(b); err != nil {
			return watchError{err, true}
		}
		e.progress.reached(w, b.Revision)
	}
	if err := ctx.Err(); err != nil {
		return watchError{err, false}
	}
	return watchError{fmt.Errorf("etcd ended the watch"), false}
}

func (e *Engine) events(from []*clientv3.Event) []store.Event {
	events := make([]store.Event, len(from))
	for i, event := range from {
		events[i].KV = e.kv(event.Kv)
		if event.Type == clientv3.EventTypeDelete {
			events[i].Deleted = true
			events[i].Value, events[i].CreateRevision = nil, 0
		}
	}
	return events
}

// streamContext makes all watches share one stream, the one that progress is
// asked for on, and end when their member loses the leader.
func streamContext(ctx context.Context) context.Context {
	return clientv3.WithRequireLeader(ctx)
}

// progress knows how far the watches are and how far they should be.
type progress struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
	wanted   int64
	// asked wakes the loop; it has room for one.
	asked chan struct{}
}

// watcher is a watch; its fields are guarded by progress.mu, except that its
// own goroutine may read reached.
type watcher struct {
	reached int64
}

func (p *progress) init() {
	p.watchers = map[*watcher]struct{}{}
	p.asked = make(chan struct{}, 1)
}

func (p *progress) add(w *watcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers[w] = struct{}{}
	p.ask()
}

func (p *progress) remove(w *watcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watchers, w)
}

func (p *progress) reached(w *watcher, revision int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.reached = revision
}

// want asks that all watches reach revision soon.
func (p *progress) want(revision int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = max(p.wanted, revision)
	p.ask()
}

// ask wakes the loop if a watch is behind.
func (p *progress) ask() {
	if !p.behind() {
		return
	}
	select {
	case p.asked <- struct{}{}:
	default:
	}
}

// behind says if a watch has not reached what is wanted.
func (p *progress) behind() bool {
	for w := range p.watchers {
		if w.reached < p.wanted {
			return true
		}
	}
	return false
}

// requestProgress asks the cluster where it stands while a watch is behind.
func (e *Engine) requestProgress() {
	p := &e.progress
	for {
		select {
		case <-p.asked:
		case <-e.stop.Done():
			return
		}
		for e.stop.Err() == nil {
			p.mu.Lock()
			behind := p.behind()
			p.mu.Unlock()
			if !behind {
				break
			}
			if err := e.client.RequestProgress(streamContext(e.stop)); err != nil && e.stop.Err() == nil {
				e.o.Log.Debug("Asking for progress failed", "err", err)
			}
			select {
			case <-e.o.Clock.After(progressEvery):
			case <-e.stop.Done():
			}
		}
	}
}
