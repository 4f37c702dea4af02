// Package follow keeps something up to date with the objects of a kind.
package follow

import (
	"context"
	"fmt"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Informers is what of a cache is needed.
type Informers interface {
	GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
}

// Synced is closed when all objects that were there at the beginning have been
// handed over.
type Synced <-chan struct{}

// Objects calls set with every object of T's kind, now and whenever it changes
// (old is nil for a new one), and gone when it is removed. Calls come one at a
// time. Objects are shared: they must not be changed.
func Objects[T client.Object](ctx context.Context, c Informers, kind T, set func(old, obj T), gone func(obj T)) (Synced, error) {
	informer, err := c.GetInformer(ctx, kind)
	if err != nil {
		return nil, fmt.Errorf("following %T: %w", kind, err)
	}
	var none T
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { set(none, o.(T)) },
		UpdateFunc: func(old, o any) { set(old.(T), o.(T)) },
		DeleteFunc: func(o any) {
			if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			if obj, ok := o.(T); ok {
				gone(obj)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("following %T: %w", kind, err)
	}
	return registration.HasSyncedChecker().Done(), nil
}

// Wait waits until all are synced, or ctx ends.
func Wait(ctx context.Context, all ...Synced) error {
	for _, s := range all {
		select {
		case <-s:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
