// Package current keeps what admission makes of configuration objects in step
// with the store, without following events: a write is in effect for every
// request that begins after it was acknowledged, and asking costs an atomic
// load per collection while nothing changes.
package current

import (
	"sync"
	"sync/atomic"

	"skiff/internal/apis"
	"skiff/internal/store/cache"
)

// Value is derived from all objects of some collections.
type Value[T any] struct {
	sources []*cache.Collection
	derive  func(before T, objects [][]apis.Object) T

	state atomic.Pointer[state[T]]
	mu    sync.Mutex
}

type state[T any] struct {
	changes []int64
	value   T
}

// New returns a value that derive makes of the objects of each source, in the
// order of their names, when they have changed. It is given the value before,
// from which it may take over parts that are the same.
func New[T any](derive func(before T, objects [][]apis.Object) T, sources ...*cache.Collection) *Value[T] {
	return &Value[T]{sources: sources, derive: derive}
}

// Get returns the value.
func (v *Value[T]) Get() T {
	if s := v.state.Load(); s != nil && v.fresh(s) {
		return s.value
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var before T
	if s := v.state.Load(); s != nil {
		if v.fresh(s) {
			return s.value
		}
		before = s.value
	}
	// The counts are read first: what changes afterwards is seen next time.
	s := &state[T]{changes: make([]int64, len(v.sources))}
	objects := make([][]apis.Object, len(v.sources))
	for i, c := range v.sources {
		s.changes[i] = c.Changes()
		c.Snapshot().Ascend(c.Prefix()+"/", "", func(e *cache.Entry) bool {
			if obj, err := e.Object(); err == nil {
				objects[i] = append(objects[i], obj)
			}
			return true
		})
	}
	s.value = v.derive(before, objects)
	v.state.Store(s)
	return s.value
}

func (v *Value[T]) fresh(s *state[T]) bool {
	for i, c := range v.sources {
		if c.Changes() != s.changes[i] {
			return false
		}
	}
	return true
}
