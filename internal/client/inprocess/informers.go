package inprocess

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
	crcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/verbs"
	"skiff/internal/identity"
	"skiff/internal/store/cache"
)

// informers is controller-runtime's cache over the server's own state: nothing
// is copied or kept a second time, only indexes are added.
type informers struct {
	*Binding
	ctx context.Context
	// remote has informers of what other servers answer.
	remote *connection

	mu      sync.Mutex
	indexes map[indexKey]*index
}

type indexKey struct {
	gvk   schema.GroupVersionKind
	field string
}

var _ crcache.Cache = (*informers)(nil)

func newInformers(ctx context.Context, b *Binding) *informers {
	return &informers{Binding: b, ctx: ctx, remote: b.connection(ctx, identity.Loopback()), indexes: make(map[indexKey]*index)}
}

func (c *informers) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	if c.elsewhere(obj) {
		set, err := c.remote.get()
		if err != nil {
			return err
		}
		return set.Cache.Get(ctx, key, obj, opts...)
	}
	v, err := c.version(obj)
	if err != nil {
		return err
	}
	col := v.Resource().Collection
	if col == nil {
		return fmt.Errorf("%s is not stored: it cannot be read from the cache", v.Resource().GroupResource())
	}
	namespace := key.Namespace
	if !v.Resource().Namespaced {
		namespace = ""
	}
	e := col.Get(col.Key(namespace, key.Name))
	if e == nil {
		return apierrors.NewNotFound(v.Resource().GroupResource(), key.Name)
	}
	o := (&client.GetOptions{}).ApplyOptions(opts)
	return give(ctx, e, v, obj, ptr.Deref(o.UnsafeDisableDeepCopy, false))
}

func (c *informers) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if c.elsewhere(list) {
		set, err := c.remote.get()
		if err != nil {
			return err
		}
		return set.Cache.List(ctx, list, opts...)
	}
	v, err := c.version(list)
	if err != nil {
		return err
	}
	o := (&client.ListOptions{}).ApplyOptions(opts)
	out, err := c.entries(v, o)
	if err != nil {
		return err
	}
	return giveList(ctx, out, v, list, ptr.Deref(o.UnsafeDisableDeepCopy, false))
}

func (c *informers) entries(v *verbs.Version, o *client.ListOptions) (*verbs.ListResult, error) {
	if o.FieldSelector != nil {
		for _, q := range o.FieldSelector.Requirements() {
			if q.Operator != selection.Equals && q.Operator != selection.DoubleEquals {
				continue
			}
			c.mu.Lock()
			ix := c.indexes[indexKey{v.GVK(), q.Field}]
			c.mu.Unlock()
			if ix != nil {
				return ix.list(q.Value, o)
			}
		}
	}
	req := &verbs.Request{Version: v, Namespace: o.Namespace}
	return c.server.List(c.ctx, req, &verbs.ListOptions{
		Labels: o.LabelSelector, Fields: o.FieldSelector, ResourceVersion: "0", Limit: o.Limit, Continue: o.Continue,
	})
}

func (c *informers) GetInformer(ctx context.Context, obj client.Object, opts ...crcache.InformerGetOption) (crcache.Informer, error) {
	if c.elsewhere(obj) {
		set, err := c.remote.get()
		if err != nil {
			return nil, err
		}
		return set.Cache.GetInformer(ctx, obj, opts...)
	}
	v, err := c.version(obj)
	if err != nil {
		return nil, err
	}
	return &informer{ctx: c.ctx, server: c.server, version: v, shape: shapeOf(obj), log: c.log.Error}, nil
}

func (c *informers) GetInformerForKind(_ context.Context, gvk schema.GroupVersionKind, _ ...crcache.InformerGetOption) (crcache.Informer, error) {
	_, v := c.server.LookupKind(gvk)
	if v == nil {
		return nil, fmt.Errorf("%s is not served", gvk)
	}
	s := typed
	if _, err := c.server.Scheme().New(gvk); err != nil {
		s = untyped
	}
	return &informer{ctx: c.ctx, server: c.server, version: v, shape: s, log: c.log.Error}, nil
}

// RemoveInformer ends the informer of what another server answers, or did. Of
// the server's own there is nothing to end.
func (c *informers) RemoveInformer(ctx context.Context, obj client.Object) error {
	if set := c.remote.made(); set != nil {
		return set.Cache.RemoveInformer(ctx, obj)
	}
	return nil
}

// Start has nothing to start: the state is the server's.
func (c *informers) Start(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (c *informers) WaitForCacheSync(context.Context) bool { return true }

func (c *informers) IndexField(_ context.Context, obj client.Object, field string, extract client.IndexerFunc) error {
	v, err := c.version(obj)
	if err != nil {
		return err
	}
	key := indexKey{v.GVK(), field}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.indexes[key] != nil {
		// Several components may want the same index; by name it is the same.
		return nil
	}
	ix := newIndex(v, shapeOf(obj), extract)
	c.indexes[key] = ix
	go ix.follow(c.ctx)
	return nil
}

// informer hands events of one resource to handlers. Each handler follows the
// state on its own, so a slow one holds up nobody.
type informer struct {
	ctx     context.Context
	server  *verbs.Server
	version *verbs.Version
	shape   shape
	log     func(msg string, args ...any)
}

func (i *informer) AddEventHandler(h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandlerWithOptions(h, toolscache.HandlerOptions{})
}

func (i *informer) AddEventHandlerWithResyncPeriod(h toolscache.ResourceEventHandler, _ time.Duration) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandlerWithOptions(h, toolscache.HandlerOptions{})
}

func (i *informer) AddEventHandlerWithOptions(h toolscache.ResourceEventHandler, _ toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	ctx, cancel := context.WithCancel(i.ctx)
	reg := &registration{name: i.version.Resource().Names.Resource, cancel: cancel, synced: make(chan struct{})}
	snap, w := i.version.Resource().Collection.SnapshotAndWatch(cache.Scope{})
	go i.run(ctx, h, reg, snap, w)
	return reg, nil
}

func (i *informer) run(ctx context.Context, h toolscache.ResourceEventHandler, reg *registration, snap cache.Snapshot, w *cache.Watcher) {
	defer w.Stop()
	object := func(e *cache.Entry) (client.Object, bool) {
		obj, err := shared(ctx, e, i.version, i.shape)
		if err != nil {
			i.log("an object in the store is not readable", "key", e.Key, "error", err)
			return nil, false
		}
		return obj, true
	}
	snap.Ascend(i.version.Resource().Collection.Prefix()+"/", "", func(e *cache.Entry) bool {
		if obj, ok := object(e); ok {
			h.OnAdd(obj, true)
		}
		return ctx.Err() == nil
	})
	close(reg.synced)
	for {
		events, err := w.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			switch err {
			case cache.ErrFellBehind:
				i.resume(ctx, h)
			case cache.ErrClosed:
				// The resource is served by another declaration now, or is gone
				// and may come back.
				if v := i.next(ctx); v != nil {
					renewed := *i
					renewed.version = v
					renewed.resume(ctx, h)
				}
			}
			return
		}
		for _, ev := range events {
			i.deliver(h, ev, object)
		}
	}
}

// next waits until the kind is served by another declaration than i's; nil when
// ctx ends first.
func (i *informer) next(ctx context.Context) *verbs.Version {
	for {
		_, changed := i.server.Generation()
		if _, v := i.server.LookupKind(i.version.GVK()); v != nil && v != i.version {
			return v
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (i *informer) deliver(h toolscache.ResourceEventHandler, ev *cache.Event, object func(*cache.Entry) (client.Object, bool)) {
	switch {
	case ev.New == nil:
		if obj, ok := object(ev.Last); ok {
			h.OnDelete(obj)
		}
	case ev.Old == nil:
		if obj, ok := object(ev.New); ok {
			h.OnAdd(obj, false)
		}
	default:
		obj, ok := object(ev.New)
		old, okOld := object(ev.Old)
		if ok && okOld {
			h.OnUpdate(old, obj)
		}
	}
}

// resume goes on after events were missed: the handler sees every object once
// more, as level-triggered handlers can take.
func (i *informer) resume(ctx context.Context, h toolscache.ResourceEventHandler) {
	snap, w := i.version.Resource().Collection.SnapshotAndWatch(cache.Scope{})
	again := &registration{synced: make(chan struct{})}
	i.run(ctx, h, again, snap, w)
}

func (i *informer) RemoveEventHandler(r toolscache.ResourceEventHandlerRegistration) error {
	if reg, ok := r.(*registration); ok {
		reg.cancel()
	}
	return nil
}

func (i *informer) AddIndexers(toolscache.Indexers) error {
	return fmt.Errorf("indexes are added with IndexField")
}

func (i *informer) HasSynced() bool { return true }

func (i *informer) HasSyncedChecker() toolscache.DoneChecker { return done{} }

func (i *informer) IsStopped() bool { return i.ctx.Err() != nil }

type done struct{}

func (done) Name() string { return "cache" }

func (done) Done() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

type registration struct {
	name   string
	cancel context.CancelFunc
	synced chan struct{}
}

func (r *registration) HasSynced() bool {
	select {
	case <-r.synced:
		return true
	default:
		return false
	}
}

func (r *registration) HasSyncedChecker() toolscache.DoneChecker { return r }
func (r *registration) Name() string                             { return r.name }
func (r *registration) Done() <-chan struct{}                    { return r.synced }
