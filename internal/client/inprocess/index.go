package inprocess

import (
	"context"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

// index maps values of a field to the keys of the objects that have them. It
// holds no objects. Who reads it first takes in the events that are waiting, so
// that it never lags behind the state.
type index struct {
	version *verbs.Version
	shape   shape
	extract client.IndexerFunc
	loaded  chan struct{}

	mu struct {
		sync.Mutex
		watcher *cache.Watcher
		keys    map[string]map[string]struct{}
	}
}

func newIndex(v *verbs.Version, s shape, extract client.IndexerFunc) *index {
	ix := &index{version: v, shape: s, extract: extract, loaded: make(chan struct{})}
	ix.mu.keys = make(map[string]map[string]struct{})
	return ix
}

func (ix *index) values(e *cache.Entry) []string {
	if e == nil {
		return nil
	}
	obj, err := shared(context.Background(), e, ix.version, ix.shape)
	if err != nil {
		return nil
	}
	return ix.extract(obj)
}

// follow keeps the queue of events short while nobody reads.
func (ix *index) follow(ctx context.Context) {
	ix.mu.Lock()
	ix.loadLocked()
	w := ix.mu.watcher
	ix.mu.Unlock()
	close(ix.loaded)
	for w.Wait(ctx) == nil {
		ix.mu.Lock()
		err := ix.takeLocked()
		w = ix.mu.watcher
		ix.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (ix *index) loadLocked() {
	if ix.mu.watcher != nil {
		ix.mu.watcher.Stop()
	}
	col := ix.version.Resource().Collection
	var snap cache.Snapshot
	snap, ix.mu.watcher = col.SnapshotAndWatch(cache.Scope{})
	clear(ix.mu.keys)
	snap.Ascend(col.Prefix()+"/", "", func(e *cache.Entry) bool {
		ix.addLocked(e)
		return true
	})
}

// takeLocked brings the index up to date; the error is cache.ErrClosed.
func (ix *index) takeLocked() error {
	events, err := ix.mu.watcher.Take()
	switch {
	case err == cache.ErrFellBehind:
		ix.loadLocked()
		return nil
	case err != nil:
		return err
	}
	for _, ev := range events {
		for _, v := range ix.values(ev.Old) {
			if set := ix.mu.keys[v]; set != nil {
				delete(set, ev.Old.Key)
				if len(set) == 0 {
					delete(ix.mu.keys, v)
				}
			}
		}
		if ev.New != nil {
			ix.addLocked(ev.New)
		}
	}
	return nil
}

func (ix *index) addLocked(e *cache.Entry) {
	for _, v := range ix.values(e) {
		set := ix.mu.keys[v]
		if set == nil {
			set = make(map[string]struct{})
			ix.mu.keys[v] = set
		}
		set[e.Key] = struct{}{}
	}
}

// list returns the objects whose field has the value, in key order.
func (ix *index) list(value string, o *client.ListOptions) (*verbs.ListResult, error) {
	<-ix.loaded
	col := ix.version.Resource().Collection
	prefix := col.Prefix() + "/"
	if o.Namespace != "" && ix.version.Resource().Namespaced {
		prefix += o.Namespace + "/"
	}
	snap := col.Snapshot()
	ix.mu.Lock()
	if err := ix.takeLocked(); err != nil {
		ix.mu.Unlock()
		return nil, err
	}
	keys := make([]string, 0, len(ix.mu.keys[value]))
	for k := range ix.mu.keys[value] {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	ix.mu.Unlock()
	slices.Sort(keys)
	out := &verbs.ListResult{Revision: snap.Revision, Entries: make([]*cache.Entry, 0, len(keys))}
	for _, k := range keys {
		e := snap.Get(k)
		if e == nil || !slices.Contains(ix.values(e), value) {
			continue
		}
		if o.LabelSelector != nil {
			obj, err := e.Object()
			if err != nil || !o.LabelSelector.Matches(labels.Set(obj.GetLabels())) {
				continue
			}
		}
		out.Entries = append(out.Entries, e)
	}
	return out, nil
}
