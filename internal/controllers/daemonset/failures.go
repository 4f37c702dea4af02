package daemonset

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A node that refuses a set's pods gets the next one after firstBackoff,
// doubling up to lastBackoff; after twice that without a failure, all is
// forgotten.
const (
	firstBackoff = time.Second
	lastBackoff  = 15 * time.Minute
)

// failures remembers, by set and node, when pods failed.
type failures struct {
	mu  sync.Mutex
	all map[types.NamespacedName]map[string]failure
}

type failure struct {
	backoff time.Duration
	last    time.Time
}

// left returns how long a failed pod must wait to be replaced.
func (f *failures) left(set types.NamespacedName, pod *corev1.Pod, now time.Time) time.Duration {
	if pod.Status.Phase != corev1.PodFailed {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	last := f.all[set][target(pod)]
	return max(0, last.last.Add(last.backoff).Sub(now))
}

// note counts a failed pod that is replaced.
func (f *failures) note(set types.NamespacedName, pod *corev1.Pod, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = map[types.NamespacedName]map[string]failure{}
	}
	nodes := f.all[set]
	if nodes == nil {
		nodes = map[string]failure{}
		f.all[set] = nodes
	}
	for node, old := range nodes {
		if now.Sub(old.last) > 2*lastBackoff {
			delete(nodes, node)
		}
	}
	node := target(pod)
	nodes[node] = failure{min(max(2*nodes[node].backoff, firstBackoff), lastBackoff), now}
}

func (f *failures) forget(set types.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, set)
}
