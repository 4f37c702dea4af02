package persistentvolume

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// groups keeps the names of objects in groups. Event handlers move them before
// they wake anyone, so that whoever is woken finds what woke it.
type groups struct {
	mu      sync.Mutex
	members map[string]map[types.NamespacedName]struct{}
}

// move moves an object from one group to another; the group without a name
// has no members.
func (g *groups) move(key types.NamespacedName, from, to string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if from != to && from != "" {
		delete(g.members[from], key)
		if len(g.members[from]) == 0 {
			delete(g.members, from)
		}
	}
	if to == "" {
		return
	}
	if g.members == nil {
		g.members = make(map[string]map[types.NamespacedName]struct{})
	}
	if g.members[to] == nil {
		g.members[to] = make(map[types.NamespacedName]struct{})
	}
	g.members[to][key] = struct{}{}
}

// of returns the members of a group.
func (g *groups) of(group string) []types.NamespacedName {
	g.mu.Lock()
	defer g.mu.Unlock()
	keys := make([]types.NamespacedName, 0, len(g.members[group]))
	for key := range g.members[group] {
		keys = append(keys, key)
	}
	return keys
}
