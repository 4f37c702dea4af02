// Package framework is the vocabulary of the scheduler: nodes and pods as it
// sees them, and the extension points that its plugins fill. The points are
// those of KEP-624 (scheduling framework).
//
// What differs from upstream is who keeps intermediate results. A plugin's
// PreFilter and PreScore make a rule for a class of equal pods; the rule is
// kept as long as the class lives and hears of every node that changed, so
// that placing the next equal pod costs little.
package framework

import (
	"context"
	"iter"

	corev1 "k8s.io/api/core/v1"
)

// MaxScore is the highest score of a node after normalization; the lowest is 0.
const MaxScore = 100

// Plugin is what all plugins have.
type Plugin interface {
	// Name is upstream's name of the plugin.
	Name() string
}

// PreEnqueuePlugin says whether a pod may be considered at all.
type PreEnqueuePlugin interface {
	Plugin
	// PreEnqueue returns nil if the pod may enter the active queue.
	PreEnqueue(pod *corev1.Pod) *Status
}

// QueueSortPlugin orders the pods that wait.
type QueueSortPlugin interface {
	Plugin
	Less(a, b *QueuedPod) bool
}

// FilterPlugin says which nodes a pod may run on.
type FilterPlugin interface {
	Plugin
	// PreFilter makes the rule for pod and its equals. Without a rule the
	// plugin has nothing to say about them; with a status that is not nil, no
	// node will do.
	PreFilter(pod *PodInfo) (Filter, *Status)
}

// Filter is a rule about nodes. Unless it is an Observer, its answer depends
// on nothing but the node.
type Filter interface {
	// Filter returns nil if the pod may run on n.
	Filter(n *NodeInfo) *Status
}

// Restriction is a Filter that knows beforehand which nodes are possible.
type Restriction interface {
	// Only returns the names of the possible nodes; restricted is false if any
	// may be.
	Only() (names []string, restricted bool)
}

// Observer is a rule whose answer about one node depends on others. It is told
// of every node before the first question, and of every change of one after.
//
// Its answers are the same for all nodes of a group, so that they are worked
// out once for each group: how many groups there are decides how fast the rule
// is.
type Observer interface {
	// Observe takes in the present state of n; n.Node is nil if the node is
	// gone. It reports whether other nodes may now belong to another group.
	Observe(n *NodeInfo) (regroup bool)
	// Group appends to keys what the answer about n depends on.
	Group(n *NodeInfo, keys []uint64) []uint64
}

// ScorePlugin says which nodes are better.
type ScorePlugin interface {
	Plugin
	// PreScore makes the rule for pod and its equals, or nil if the plugin
	// prefers no node.
	PreScore(pod *PodInfo) Scorer
}

// Scorer scores nodes. The score is between 0 and MaxScore unless the rule is
// also a Normalizer.
type Scorer interface {
	Score(n *NodeInfo) int64
}

// Normalizer is a Scorer whose scores only mean something in comparison.
type Normalizer interface {
	// Normalize maps a score to 0…MaxScore, given the extremes of all feasible
	// nodes' scores but those that are NoScore.
	Normalize(score, min, max int64) int64
}

// NoScore is the score of a node that takes no part in the comparison.
const NoScore = -1 << 62

// Comparer is a Scorer and Observer that depends on which nodes are feasible.
type Comparer interface {
	// Compare is told, before nodes are scored, of all groups of feasible nodes:
	// one of the nodes, and how many they are.
	Compare(groups iter.Seq2[*NodeInfo, int])
}

// PostFilterPlugin tries to make room for a pod that fits nowhere.
type PostFilterPlugin interface {
	Plugin
	// PostFilter returns how room can be made, or nil and why it cannot.
	PostFilter(pod *PodInfo, t Trial) (*Nomination, *Status)
}

// Nomination is how room is made for a pod.
type Nomination struct {
	// Node is where; an empty name takes an earlier nomination back.
	Node string
	// Displaced are pods of lower priority nominated there before, Victims those
	// that have to go.
	Displaced, Victims []*PodInfo
	// MakeRoom removes what is in the way, through the API.
	MakeRoom func(ctx context.Context) error
}

// Trial answers what would be.
type Trial interface {
	// Failures calls yield with each node and why the pod does not fit there.
	Failures(yield func(n *NodeInfo, why *Status) bool)
	// Reasons is the same, counted.
	Reasons() map[*Status]int
	// Rejected returns why no node will do, if that was known without looking at
	// any.
	Rejected() *Status
	// Nodes returns how many nodes there are.
	Nodes() int
	// Node returns the node of that name, or nil.
	Node(name string) *NodeInfo
	// Why returns why the pod does not fit on n, or nil.
	Why(n *NodeInfo) *Status
	// Nominated is where room is being made for the pod, if anywhere.
	Nominated() string
	// LowestPriority returns the lowest priority of a pod on a node; any is
	// false if there are no pods.
	LowestPriority() (lowest int32, any bool)
	// Fits returns nil if the pod would fit on n were it as in view.
	Fits(n, view *NodeInfo) *Status
	// Consult asks others what they think of making room so, and returns what
	// they leave of it. Nodes may change meanwhile.
	Consult(victims map[string]Victims) (map[string]Victims, error)
}

// Victims are the pods that have to go from a node so that another one fits,
// the most important one first. Violations is how many of them a disruption
// budget protects.
type Victims struct {
	Pods       []*PodInfo
	Violations int
}

// ReservePlugin keeps what a pod needs from being given to others, from the
// decision on.
type ReservePlugin interface {
	Plugin
	Reserve(pod *PodInfo, node string) *Status
	Unreserve(pod *PodInfo, node string)
}

// PermitPlugin may hold a decided pod back until ctx ends.
type PermitPlugin interface {
	Plugin
	Permit(ctx context.Context, pod *corev1.Pod, node string) *Status
}

// PreBindPlugin prepares the cluster for a pod on its node.
type PreBindPlugin interface {
	Plugin
	PreBind(ctx context.Context, pod *corev1.Pod, node string) *Status
}

// BindPlugin binds pods to nodes; the first that does not Skip does it.
type BindPlugin interface {
	Plugin
	Bind(ctx context.Context, pod *corev1.Pod, node string) *Status
}

// PostBindPlugin hears of bound pods.
type PostBindPlugin interface {
	Plugin
	PostBind(ctx context.Context, pod *corev1.Pod, node string)
}

// HintPlugin knows which events may help the pods it rejected (KEP-4247).
type HintPlugin interface {
	Plugin
	// Cures reports whether after e the plugin may accept pod.
	Cures(pod *PodInfo, e Event) bool
}

// EventKind says what an Event is about.
type EventKind int

// The kinds of events that may make unschedulable pods schedulable.
const (
	NodeAdded EventKind = iota
	NodeChanged
	NodeGone
	PodPlaced
	PodChanged
	PodGone
	NamespaceChanged
	ServiceChanged
	VolumeChanged
	DeviceChanged
	DeviceClassChanged
)

// Event is a change in the cluster. Only what belongs to its kind is set; what
// is old is nil where there was nothing before.
type Event struct {
	Kind          EventKind
	OldNode, Node *corev1.Node
	OldPod, Pod   *PodInfo
	// Host is where a pod that is gone was.
	Host *NodeInfo
	// Namespace is where it happened.
	Namespace string
	// Claim is the persistent volume claim that changed; empty if something else
	// about volumes did.
	Claim string
}

// Weighted is a score plugin with its weight in the sum.
type Weighted struct {
	ScorePlugin
	Weight int64
}

// Profile is a set of plugins in the order in which they are asked.
type Profile struct {
	QueueSort  QueueSortPlugin
	PreEnqueue []PreEnqueuePlugin
	Filter     []FilterPlugin
	PostFilter []PostFilterPlugin
	Score      []Weighted
	Reserve    []ReservePlugin
	Permit     []PermitPlugin
	PreBind    []PreBindPlugin
	Bind       []BindPlugin
	PostBind   []PostBindPlugin
}
