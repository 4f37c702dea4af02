// Package nodelifecycle watches over nodes: one whose kubelet falls silent
// becomes Ready=Unknown, and taints keep new pods away from nodes with problems
// and, at a limited rate in each zone, drive old ones out.
package nodelifecycle

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/index"
	"skiff/internal/controllers/pods"
)

// Options are the patience with nodes. Zero values mean upstream's defaults.
type Options struct {
	// Grace is how long a node may be silent (50 s), StartupGrace how long one
	// that never said anything (1 min).
	Grace, StartupGrace time.Duration
	// EvictionInterval is the time between two nodes of one zone being tainted
	// NoExecute (10 s); SecondaryInterval the same while most of a large zone
	// is unhealthy (100 s).
	EvictionInterval, SecondaryInterval time.Duration
}

func (o *Options) setDefaults() {
	for d, otherwise := range map[*time.Duration]time.Duration{
		&o.Grace: 50 * time.Second, &o.StartupGrace: time.Minute,
		&o.EvictionInterval: 10 * time.Second, &o.SecondaryInterval: 100 * time.Second,
	} {
		if *d == 0 {
			*d = otherwise
		}
	}
}

const workers = 4

type reconciler struct {
	controller.Deps
	Options
	events record.EventRecorder
	queue  controller.Queue

	mu sync.Mutex
	// heard is when each node last gave a sign of life, by this process's
	// clock: nodes' clocks are not trusted.
	heard map[string]time.Time
	zones *zones

	evictions *prometheus.CounterVec
}

// New makes the node lifecycle controller.
func New(d controller.Deps, o Options) (controller.Runnable, error) {
	o.setDefaults()
	r := &reconciler{Deps: d, Options: o, events: d.Recorder("node-controller"), heard: map[string]time.Time{}}
	r.zones = newZones(o.EvictionInterval, o.SecondaryInterval)
	r.register(d.Metrics.Registerer())
	return controller.New(d, "nodelifecycle", workers, r.reconcile,
		controller.Capture(func(q controller.Queue) { r.queue = q }),
		controller.Watch(d, &coordinationv1.Lease{}, r.leaseChanged),
		controller.Watch(d, &corev1.Node{}, r.nodeChanged))
}

func (r *reconciler) leaseChanged(_ controller.Queue, old, lease *coordinationv1.Lease) {
	if lease == nil || lease.Namespace != corev1.NamespaceNodeLease {
		return
	}
	if old == nil || !lease.Spec.RenewTime.Equal(old.Spec.RenewTime) {
		r.hear(lease.Name)
	}
}

func (r *reconciler) hear(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard[node] = r.Clock.Now()
}

func (r *reconciler) nodeChanged(q controller.Queue, old, node *corev1.Node) {
	if node == nil {
		r.mu.Lock()
		delete(r.heard, old.Name)
		woken := r.zones.remove(old.Name)
		r.mu.Unlock()
		r.events.Eventf(old, corev1.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %s from Controller", old.Name, old.Name)
		r.wake(woken)
		return
	}
	if old == nil {
		r.events.Eventf(node, corev1.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %s in Controller", node.Name, node.Name)
	}
	if old == nil || heartbeat(old) != heartbeat(node) {
		r.hear(node.Name)
	}
	controller.Add(q, "", node.Name)
}

func (r *reconciler) wake(nodes []string) {
	for _, name := range nodes {
		controller.Add(r.queue, "", name)
	}
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached corev1.Node
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	// Most of the time there is nothing to change, and nothing to copy.
	node, now := &cached, r.Clock.Now()
	silentIn := r.silentIn(node, now)
	if silentIn <= 0 {
		silent := cached.DeepCopy()
		if setUnknown(silent, now) {
			if err := r.podsNotReady(ctx, silent.Name, now); err != nil {
				return reconcile.Result{}, err
			}
			if err := r.Client.Status().Update(ctx, silent); err != nil {
				return reconcile.Result{}, crclient.IgnoreNotFound(err)
			}
			r.events.Eventf(silent, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: %s", silent.Name, "NodeNotReady")
		}
		node = silent
	}
	effect, wait := r.judge(node, now)
	if next := taints(node, effect, now); !apiequality.Semantic.DeepEqual(next, cached.Spec.Taints) {
		tainted := node.DeepCopy()
		tainted.Spec.Taints = next
		err := r.Client.Patch(ctx, tainted, crclient.MergeFromWithOptions(node, crclient.MergeFromWithOptimisticLock{}))
		if err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
		r.tainted(&cached, tainted)
	}
	if silentIn > 0 && (wait == 0 || silentIn < wait) {
		wait = silentIn
	}
	return reconcile.Result{RequeueAfter: wait}, nil
}

// silentIn returns how long the node may still be silent.
func (r *reconciler) silentIn(node *corev1.Node, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	heard, ok := r.heard[node.Name]
	if !ok {
		heard = now
		r.heard[node.Name] = now
	}
	grace := r.Grace
	if ready(node) == nil {
		grace = r.StartupGrace
	}
	return heard.Add(grace).Sub(now)
}

// judge decides on the node's NoExecute taint, with regard to its zone; if it
// has to wait for its turn, wait says how long.
func (r *reconciler) judge(node *corev1.Node, now time.Time) (e eviction, wait time.Duration) {
	r.mu.Lock()
	wasDown := r.zones.allDown()
	woken := r.zones.set(node, ready(node) != nil && ready(node).Status == corev1.ConditionTrue)
	if wasDown && !r.zones.allDown() {
		// Nobody could be heard; everybody gets the whole time anew.
		for name := range r.heard {
			r.heard[name] = now
		}
	}
	e, wait = r.zones.judge(node, now)
	r.mu.Unlock()
	r.wake(woken)
	return e, wait
}

// podsNotReady marks the pods of a silent node so that Services drop them.
func (r *reconciler) podsNotReady(ctx context.Context, node string, now time.Time) error {
	var list corev1.PodList
	if err := r.Cache.List(ctx, &list, crclient.MatchingFields{index.Node: node}, crclient.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	for i := range list.Items {
		if !pods.Ready(&list.Items[i]) {
			continue
		}
		p := list.Items[i].DeepCopy()
		c := pods.Condition(p, corev1.PodReady)
		c.Status = corev1.ConditionFalse
		c.LastTransitionTime = metav1.NewTime(now)
		if err := r.Client.Status().Update(ctx, p); crclient.IgnoreNotFound(err) != nil {
			return err
		}
		r.events.Event(p, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return nil
}
