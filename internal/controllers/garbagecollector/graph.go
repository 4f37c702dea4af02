package garbagecollector

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// identity says where an object can be read.
type identity struct {
	schema.GroupVersionKind
	types.NamespacedName
	UID types.UID
}

// node is an object in the graph.
type node struct {
	identity
	owners     []metav1.OwnerReference
	dependents map[*node]struct{}
	// virtual nodes are named as an owner, and not seen yet or gone.
	virtual bool
	// deleted: it has a deletion timestamp. foreground and orphan: and it waits
	// for its dependents to be gone, or to be released.
	deleted, foreground, orphan bool
}

// graph is who owns whom, as far as events told. Its methods return the nodes
// that must be looked at because of a change.
type graph struct {
	mu    sync.Mutex
	nodes map[types.UID]*node
	// absent remembers owners that were found not to exist, so that each of
	// many dependents need not ask again. UIDs are never used twice.
	absent map[reference]struct{}
}

// reference is how dependents name an owner. A wrong name for the right UID is
// the name of an object that does not exist.
type reference struct {
	schema.GroupKind
	types.NamespacedName
	UID types.UID
}

func (id identity) reference() reference { return reference{id.GroupKind(), id.NamespacedName, id.UID} }

// maxAbsent bounds graph.absent.
const maxAbsent = 500

func newGraph() *graph {
	return &graph{nodes: map[types.UID]*node{}, absent: map[reference]struct{}{}}
}

// observe takes in an object as an event brought it.
func (g *graph) observe(kind schema.GroupVersionKind, o metav1.Object) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	id := identity{kind, types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}, o.GetUID()}
	var look []types.UID
	n := g.nodes[id.UID]
	if n == nil {
		n = &node{identity: id, dependents: map[*node]struct{}{}}
		g.nodes[id.UID] = n
	} else if n.virtual {
		if n.Namespace != id.Namespace || n.Kind != id.Kind || n.Group != id.Group || n.Name != id.Name {
			// Dependents named the right UID but a wrong place: they are judged
			// by what they wrote.
			look = append(look, g.dependents(n)...)
		}
		n.identity, n.virtual = id, false
	} else {
		// The same object may be seen through several versions.
		id.GroupVersionKind = n.GroupVersionKind
		n.identity = id
	}
	look = append(look, g.setOwners(n, o.GetOwnerReferences())...)

	wasForeground, wasOrphan := n.foreground, n.orphan
	n.deleted = o.GetDeletionTimestamp() != nil
	n.foreground = n.deleted && slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents)
	n.orphan = n.deleted && slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents)
	if n.foreground && !wasForeground {
		look = append(append(look, g.dependents(n)...), n.UID)
	}
	if n.orphan && !wasOrphan {
		look = append(look, n.UID)
	}
	return look
}

// setOwners replaces n's owners and the edges to them.
func (g *graph) setOwners(n *node, refs []metav1.OwnerReference) []types.UID {
	var look []types.UID
	for _, old := range n.owners {
		i := slices.IndexFunc(refs, func(r metav1.OwnerReference) bool { return r.UID == old.UID })
		owner := g.nodes[old.UID]
		if owner == nil {
			continue
		}
		if i < 0 {
			delete(owner.dependents, n)
			g.dropUnused(owner)
		}
		if blocks(old) && (i < 0 || !blocks(refs[i])) && owner.foreground {
			look = append(look, owner.UID)
		}
	}
	for _, ref := range refs {
		owner := g.nodes[ref.UID]
		if owner == nil {
			owner = &node{
				identity:   identity{schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind), types.NamespacedName{Namespace: n.Namespace, Name: ref.Name}, ref.UID},
				dependents: map[*node]struct{}{}, virtual: true,
			}
			g.nodes[ref.UID] = owner
			owner.dependents[n] = struct{}{}
			look = append(look, ref.UID)
		}
		if _, known := owner.dependents[n]; !known {
			owner.dependents[n] = struct{}{}
			if owner.foreground || owner.virtual || !owner.matches(ref, n.Namespace) {
				look = append(look, n.UID)
			}
		}
	}
	n.owners = refs
	return look
}

// dropUnused removes a virtual node that nobody names any more.
func (g *graph) dropUnused(n *node) {
	if n.virtual && len(n.dependents) == 0 {
		delete(g.nodes, n.UID)
	}
}

// matches reports whether ref, written in an object of that namespace, names n.
func (n *node) matches(ref metav1.OwnerReference, namespace string) bool {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	return err == nil && gv.Group == n.Group && ref.Kind == n.Kind && ref.Name == n.Name && (n.Namespace == "" || n.Namespace == namespace)
}

// remove takes out an object that is gone, or that was found not to exist.
func (g *graph) remove(uid types.UID) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return nil
	}
	look := g.dependents(n)
	if !n.virtual && len(look) > 0 {
		g.noteAbsent(n.reference())
	}
	owners := n.owners
	n.virtual, n.deleted, n.foreground, n.orphan, n.owners = true, false, false, false, nil
	g.dropUnused(n)
	for _, ref := range owners {
		if owner := g.nodes[ref.UID]; owner != nil {
			delete(owner.dependents, n)
			if owner.foreground {
				look = append(look, owner.UID)
			}
			g.dropUnused(owner)
		}
	}
	return look
}

func (g *graph) noteAbsent(r reference) {
	if len(g.absent) >= maxAbsent {
		clear(g.absent)
	}
	g.absent[r] = struct{}{}
}

func (g *graph) dependents(n *node) []types.UID {
	var all []types.UID
	for d := range n.dependents {
		all = append(all, d.UID)
	}
	return all
}

// view is a copy of what is known of one object.
type view struct {
	identity
	virtual, deleted, foreground, orphan bool
	dependents                           []dependent
	// settled: all owners are there and none is waiting for dependents to go.
	settled bool
}

type dependent struct {
	identity
	// blocking dependents hold up a foreground deletion.
	blocking, foreground bool
}

// look returns what is known of the object, or ok=false.
func (g *graph) look(uid types.UID) (v view, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return view{}, false
	}
	v = view{identity: n.identity, virtual: n.virtual, deleted: n.deleted, foreground: n.foreground, orphan: n.orphan, settled: !n.virtual}
	for _, ref := range n.owners {
		owner := g.nodes[ref.UID]
		if owner == nil || owner.virtual || owner.foreground || !owner.matches(ref, n.Namespace) {
			v.settled = false
		}
	}
	for d := range n.dependents {
		i := slices.IndexFunc(d.owners, func(r metav1.OwnerReference) bool { return r.UID == uid })
		v.dependents = append(v.dependents, dependent{identity: d.identity, blocking: i >= 0 && blocks(d.owners[i]), foreground: d.foreground})
	}
	return v, true
}

// elsewhere reports whether the object of that UID was seen, and in another
// namespace.
func (g *graph) elsewhere(uid types.UID, namespace string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	return n != nil && !n.virtual && n.Namespace != "" && n.Namespace != namespace
}

// setAbsent notes that an owner was looked for and not found; isAbsent asks.
func (g *graph) setAbsent(r reference) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.noteAbsent(r)
}

func (g *graph) isAbsent(r reference) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.absent[r]
	return ok
}

func blocks(r metav1.OwnerReference) bool {
	return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
}
