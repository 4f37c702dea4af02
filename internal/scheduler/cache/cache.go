// Package cache is the scheduler's picture of the cluster: every node with the
// pods on it, including those just decided and not yet seen bound. It is kept
// up to date by events and tells its readers which nodes changed.
//
// It is not safe for concurrent use.
package cache

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/scheduler/framework"
)

// Cache is all nodes, in rows. A row is a node's place in all tables; a row
// without a node is empty until another node takes it.
type Cache struct {
	rows   []*framework.NodeInfo
	byName map[string]*framework.NodeInfo
	free   []int
	nodes  int
	pods   map[types.UID]*place
	// priorities counts the pods by priority.
	priorities map[int32]int

	// changes are the rows that changed, in order. The first one has the number
	// base; readers remember the number of the next one they want.
	changes []int32
	base    int
}

// place is where a pod is.
type place struct {
	pod  *framework.PodInfo
	node string
	// assumed is set until the pod has been seen on its node.
	assumed bool
}

// New returns an empty cache.
func New() *Cache {
	return &Cache{byName: make(map[string]*framework.NodeInfo), pods: make(map[types.UID]*place), priorities: make(map[int32]int)}
}

// Rows returns all rows; those of gone nodes have no Node.
func (c *Cache) Rows() []*framework.NodeInfo { return c.rows }

// Node returns the node of that name, or nil.
func (c *Cache) Node(name string) *framework.NodeInfo {
	if n := c.byName[name]; n != nil && n.Node != nil {
		return n
	}
	return nil
}

// Len returns the number of nodes.
func (c *Cache) Len() int { return c.nodes }

// Pods returns how many pods are on nodes, or assumed to be.
func (c *Cache) Pods() int { return len(c.pods) }

// LowestPriority returns the lowest priority of a pod on a node; any is false
// if there are no pods.
func (c *Cache) LowestPriority() (lowest int32, any bool) {
	for p := range c.priorities {
		if !any || p < lowest {
			lowest, any = p, true
		}
	}
	return lowest, any
}

// Now returns the number of the next change.
func (c *Cache) Now() int { return c.base + len(c.changes) }

// Since returns the rows changed since the change of that number, possibly
// several times each; known is false if that is too long ago to tell.
func (c *Cache) Since(number int) (rows []int32, known bool) {
	if number < c.base {
		return nil, false
	}
	return c.changes[number-c.base:], true
}

func (c *Cache) changed(n *framework.NodeInfo) {
	if limit := 4*len(c.rows) + 1024; len(c.changes) >= limit {
		// Who is further behind than this is faster with a new start.
		drop := len(c.changes) / 2
		c.changes = append(make([]int32, 0, limit), c.changes[drop:]...)
		c.base += drop
	}
	c.changes = append(c.changes, int32(n.Row))
}

// row returns the row of the node of that name, taking a free one if it is new.
func (c *Cache) row(name string) *framework.NodeInfo {
	if n := c.byName[name]; n != nil {
		return n
	}
	n := &framework.NodeInfo{}
	if last := len(c.free) - 1; last >= 0 {
		n.Row = c.free[last]
		c.free = c.free[:last]
		c.rows[n.Row] = n
	} else {
		n.Row = len(c.rows)
		c.rows = append(c.rows, n)
	}
	c.byName[name] = n
	return n
}

// SetNode takes in a new or changed node.
func (c *Cache) SetNode(node *corev1.Node) {
	n := c.row(node.Name)
	if n.Node == nil {
		c.nodes++
	}
	n.SetNode(node)
	c.changed(n)
}

// DeleteNode forgets a node. Its row stays as long as there are pods on it.
func (c *Cache) DeleteNode(name string) {
	n := c.Node(name)
	if n == nil {
		return
	}
	c.nodes--
	n.SetNode(nil)
	c.release(name, n)
	c.changed(n)
}

func (c *Cache) release(name string, n *framework.NodeInfo) {
	if n.Node == nil && len(n.Pods) == 0 && len(n.Nominated) == 0 {
		delete(c.byName, name)
		c.free = append(c.free, n.Row)
		c.rows[n.Row] = &framework.NodeInfo{Row: n.Row}
	}
}

// SetPod takes in a pod that has a node, and returns it as it was known before,
// or nil.
func (c *Cache) SetPod(p *framework.PodInfo) *framework.PodInfo {
	old := c.pods[p.UID]
	if old == nil {
		c.put(p, p.Spec.NodeName, false)
		return nil
	}
	was := old.pod
	if old.node == p.Spec.NodeName && was.SameForOthers(p) {
		c.byName[old.node].Replace(p)
		old.pod, old.assumed = p, false
		return was
	}
	c.remove(p.UID)
	c.put(p, p.Spec.NodeName, false)
	return was
}

// Assume puts a pod on a node that it is about to be bound to.
func (c *Cache) Assume(p *framework.PodInfo, node string) { c.put(p, node, true) }

func (c *Cache) put(p *framework.PodInfo, node string, assumed bool) {
	c.pods[p.UID] = &place{pod: p, node: node, assumed: assumed}
	c.priorities[p.Priority]++
	n := c.row(node)
	n.Add(p)
	c.changed(n)
}

// Going notes that a pod is being deleted, before the event comes that tells.
func (c *Cache) Going(uid types.UID, since metav1.Time) {
	at := c.pods[uid]
	if at == nil || at.pod.DeletionTimestamp != nil {
		return
	}
	pod, info := *at.pod.Pod, *at.pod
	pod.DeletionTimestamp = &since
	info.Pod = &pod
	assumed := at.assumed
	c.remove(uid)
	c.put(&info, at.node, assumed)
}

// Forget takes back an assumed pod; it returns nil if that was seen on its node
// meanwhile, or is gone.
func (c *Cache) Forget(uid types.UID) *framework.PodInfo {
	if at := c.pods[uid]; at == nil || !at.assumed {
		return nil
	}
	return c.DeletePod(uid)
}

// DeletePod forgets a pod that is gone and returns it as it was known, or nil.
func (c *Cache) DeletePod(uid types.UID) *framework.PodInfo {
	at := c.pods[uid]
	if at == nil {
		return nil
	}
	c.remove(uid)
	return at.pod
}

func (c *Cache) remove(uid types.UID) {
	at := c.pods[uid]
	delete(c.pods, uid)
	if c.priorities[at.pod.Priority]--; c.priorities[at.pod.Priority] == 0 {
		delete(c.priorities, at.pod.Priority)
	}
	n := c.byName[at.node]
	n.Remove(uid)
	c.release(at.node, n)
	c.changed(n)
}

// Nominate notes that room is being made for p on the node; an empty name
// takes the note back.
func (c *Cache) Nominate(p *framework.PodInfo, from, to string) {
	if n := c.byName[from]; n != nil {
		kept := n.Nominated[:0:0]
		for _, o := range n.Nominated {
			if o.UID != p.UID {
				kept = append(kept, o)
			}
		}
		if len(kept) != len(n.Nominated) {
			n.Nominated = kept
			c.release(from, n)
			c.changed(n)
		}
	}
	if n := c.Node(to); n != nil {
		n.Nominated = append(n.Nominated, p)
		c.changed(n)
	}
}
