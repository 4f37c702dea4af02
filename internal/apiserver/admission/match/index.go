package match

import (
	"sync"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
)

// maxMemory bounds for how many kinds of writes an index remembers its answer.
const maxMemory = 4096

// Index finds those of many rules that select a write. Whom a kind of write is
// meant for is worked out once and remembered. The zero value has no rules.
type Index[T any] struct {
	items []item[T]

	mu     sync.RWMutex
	memory map[kindOfWrite][]Match[T]
}

type item[T any] struct {
	value T
	rules Rules
}

// Match is an owner of rules that selected a write, and how it sees it.
type Match[T any] struct {
	Value  T
	Target Target
	// undecided matches depend on the object's name too.
	undecided *Rules
}

// kindOfWrite is all that rules look at, apart from names.
type kindOfWrite struct {
	resource    *apis.Resource
	version     *apis.Version
	subresource string
	operation   admission.Operation
}

// Add adds an owner of rules; the order is kept.
func (x *Index[T]) Add(value T, rules Rules) { x.items = append(x.items, item[T]{value, rules}) }

// Len returns how many were added.
func (x *Index[T]) Len() int { return len(x.items) }

// Find returns whom the write is meant for. The result is shared.
func (x *Index[T]) Find(a *admission.Attributes) []Match[T] {
	if len(x.items) == 0 {
		return nil
	}
	key := kindOfWrite{a.Resource, a.RequestVersion(), a.Subresource, a.Operation}
	x.mu.RLock()
	found, known := x.memory[key]
	x.mu.RUnlock()
	if !known {
		found = x.search(a)
		x.mu.Lock()
		if x.memory == nil || len(x.memory) >= maxMemory {
			x.memory = map[kindOfWrite][]Match[T]{}
		}
		x.memory[key] = found
		x.mu.Unlock()
	}
	for i := range found {
		if found[i].undecided != nil {
			return decide(found, a)
		}
	}
	return found
}

func (x *Index[T]) search(a *admission.Attributes) []Match[T] {
	var found []Match[T]
	for i := range x.items {
		it := &x.items[i]
		if it.rules.named() {
			found = append(found, Match[T]{Value: it.value, undecided: &it.rules})
		} else if t, ok := it.rules.Find(a); ok {
			found = append(found, Match[T]{Value: it.value, Target: t})
		}
	}
	return found
}

func decide[T any](found []Match[T], a *admission.Attributes) []Match[T] {
	out := make([]Match[T], 0, len(found))
	for _, m := range found {
		if m.undecided != nil {
			t, ok := m.undecided.Find(a)
			if !ok {
				continue
			}
			m = Match[T]{Value: m.Value, Target: t}
		}
		out = append(out, m)
	}
	return out
}
