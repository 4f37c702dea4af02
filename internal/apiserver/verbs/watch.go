package verbs

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"skiff/internal/store"
	"skiff/internal/store/cache"
)

// WatchEvent is one event as a watcher sees it: after selection, an object
// that starts to match is ADDED and one that ceases to is DELETED.
type WatchEvent struct {
	Type  watch.EventType
	Entry *cache.Entry
	// Revision of a bookmark; InitialEventsEnd marks the one that ends the
	// initial events.
	Revision         int64
	InitialEventsEnd bool
}

// Watch is a stream of events. It must be stopped.
type Watch struct {
	server *Server
	filter *filter
	// watcher is nil until the state has come to revision after.
	watcher *cache.Watcher
	after   int64
	// initial are events of the state at the start.
	initial []WatchEvent
}

// Watch begins to watch what o selects. Without a resource version the present
// state comes first, as ADDED events.
func (s *Server) Watch(ctx context.Context, req *Request, o *ListOptions) (*Watch, error) {
	if err := validateListOptions(o, true); err != nil {
		return nil, err
	}
	f, err := compile(req, o)
	if err != nil {
		return nil, err
	}
	rev, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return nil, errors.Unwrap(err) // as upstream, an error of the server
	}
	col := req.Resource().Collection
	w := &Watch{server: s, filter: f}
	initial := rev == 0
	if o.SendInitialEvents != nil {
		initial = *o.SendInitialEvents
	}
	if rev > 0 && !initial {
		// It begins with the first Next: whatever hinders it is an event of the
		// watch, as with upstream.
		w.after = rev
		return w, nil
	}
	if initial {
		if err := s.waitFor(ctx, req.Resource(), o.ResourceVersion); err != nil {
			return nil, err
		}
	}
	snap, watcher := col.SnapshotAndWatch(f.scope)
	w.watcher = watcher
	if !initial {
		return w, nil
	}
	prefix := col.Prefix() + "/"
	if f.scope.Namespace != "" && req.Resource().Namespaced {
		prefix += f.scope.Namespace + "/"
	}
	add := func(e *cache.Entry) bool {
		if f.matches(ctx, e) {
			w.initial = append(w.initial, WatchEvent{Type: watch.Added, Entry: e})
		}
		return true
	}
	if f.scope.Key != "" {
		if e := snap.Get(f.scope.Key); e != nil {
			add(e)
		}
	} else {
		snap.Ascend(prefix, "", add)
	}
	if o.AllowBookmarks {
		w.initial = append(w.initial, WatchEvent{Type: watch.Bookmark, Revision: snap.Revision, InitialEventsEnd: true})
	}
	return w, nil
}

// begin attaches the watch to the state, which has come to where it starts.
func (w *Watch) begin() (err error) {
	if w.watcher, err = w.filter.version.Resource().Collection.Watch(w.filter.scope, w.after); err == nil {
		return nil
	}
	var compacted *store.CompactedError
	if errors.As(err, &compacted) {
		return apierrors.NewResourceExpired("too old resource version: " + itoa(w.after) + " (" + itoa(compacted.Oldest) + ")")
	}
	return unavailable(err)
}

// Next waits for the next events. When the watcher was too slow the error is
// an API error that tells it to list anew.
func (w *Watch) Next(ctx context.Context) ([]WatchEvent, error) {
	if len(w.initial) > 0 {
		out := w.initial
		w.initial = nil
		return out, nil
	}
	if w.watcher == nil {
		if err := w.server.cache.WaitFor(ctx, w.after); err != nil {
			return nil, err
		}
		if err := w.begin(); err != nil {
			return nil, err
		}
	}
	for {
		events, err := w.watcher.Next(ctx)
		if err != nil {
			if errors.Is(err, cache.ErrFellBehind) {
				return nil, apierrors.NewResourceExpired("the watch fell too far behind: list again")
			}
			return nil, err
		}
		out := make([]WatchEvent, 0, len(events))
		for _, ev := range events {
			if e, ok := w.translate(ctx, ev); ok {
				out = append(out, e)
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
}

func (w *Watch) translate(ctx context.Context, ev *cache.Event) (WatchEvent, bool) {
	was := ev.Old != nil && w.filter.matches(ctx, ev.Old)
	is := ev.New != nil && w.filter.matches(ctx, ev.New)
	switch {
	case is && was:
		return WatchEvent{Type: watch.Modified, Entry: ev.New}, true
	case is:
		return WatchEvent{Type: watch.Added, Entry: ev.New}, true
	case was && ev.New == nil:
		return WatchEvent{Type: watch.Deleted, Entry: ev.Last}, true
	case was:
		// It no longer matches: its last matching state, at this revision.
		return WatchEvent{Type: watch.Deleted, Entry: ev.Left()}, true
	}
	return WatchEvent{}, false
}

// Bookmark returns an event that tells how far the watch has come: everything
// up to its revision has been returned by Next before the call. ok is false
// while events are waiting.
func (w *Watch) Bookmark() (ev WatchEvent, ok bool) {
	if len(w.initial) > 0 || w.watcher == nil {
		return WatchEvent{}, false
	}
	rev, ok := w.watcher.Progress()
	return WatchEvent{Type: watch.Bookmark, Revision: rev}, ok
}

// Initial reports whether the state at the start is still to be returned.
func (w *Watch) Initial() bool { return len(w.initial) > 0 }

// Stop ends the watch.
func (w *Watch) Stop() {
	if w.watcher != nil {
		w.watcher.Stop()
	}
}
