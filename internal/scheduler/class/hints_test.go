package class_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/scheduler/class"
	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/interpodaffinity"
	"skiff/internal/scheduler/plugins/nodeaffinity"
	"skiff/internal/scheduler/plugins/nodeports"
	"skiff/internal/scheduler/plugins/noderesources"
	"skiff/internal/scheduler/plugins/nodeunschedulable"
	"skiff/internal/scheduler/plugins/podtopologyspread"
	"skiff/internal/scheduler/plugins/tainttoleration"
)

// put places a pod of that kind on some node, whether it fits there or not.
func (w *world) put(name string, kind *corev1.Pod) framework.Event {
	p := kind.DeepCopy()
	p.Name, p.UID, p.Spec.NodeName = name, types.UID(name), fmt.Sprintf("n%d", w.r.IntN(w.size))
	w.naive.pods[p.UID] = p
	info := framework.NewPodInfo(p)
	w.cache.SetPod(info)
	return framework.Event{Kind: framework.PodPlaced, Pod: info, Namespace: p.Namespace}
}

// event changes the world, and returns what the scheduler would be told.
func (w *world) event() (ev framework.Event, what string) {
	name := fmt.Sprintf("n%d", w.r.IntN(w.size))
	known := w.cache.Node(name)
	p := w.anyPod()
	switch w.r.IntN(6) {
	case 0:
		if known == nil {
			n := randomNode(w.r, int(name[1]-'0'))
			n.Name = name
			n.Labels[corev1.LabelHostname] = name
			w.cache.SetNode(n)
			return framework.Event{Kind: framework.NodeAdded, Node: n}, "a node comes"
		}
		old := known.Node
		w.cache.DeleteNode(name)
		return framework.Event{Kind: framework.NodeGone, Node: old}, "a node goes"
	case 1:
		if known == nil {
			break
		}
		old := known.Node
		n := randomNode(w.r, 0)
		n.Name = name
		n.Labels[corev1.LabelHostname] = name
		w.cache.SetNode(n)
		return framework.Event{Kind: framework.NodeChanged, OldNode: old, Node: n}, "a node changes"
	case 2:
		return w.put(fmt.Sprint("late-", w.r.Uint64()), template(w.r)), "a pod is placed"
	case 3:
		if p == nil {
			break
		}
		changed := p.DeepCopy()
		changed.Labels = map[string]string{"app": randomApp(w.r)}
		return w.replace(changed), "a pod gets other labels"
	case 4:
		if p == nil {
			break
		}
		changed := p.DeepCopy()
		now := metav1.Now()
		changed.DeletionTimestamp = &now
		return w.replace(changed), "a pod is deleted"
	}
	if p == nil {
		return w.put(fmt.Sprint("late-", w.r.Uint64()), template(w.r)), "a pod is placed"
	}
	delete(w.naive.pods, p.UID)
	was := w.cache.DeletePod(p.UID)
	return framework.Event{Kind: framework.PodGone, OldPod: was, Host: w.cache.Node(p.Spec.NodeName), Namespace: p.Namespace}, "a pod is gone"
}

func (w *world) replace(p *corev1.Pod) framework.Event {
	w.naive.pods[p.UID] = p
	info := framework.NewPodInfo(p)
	was := w.cache.SetPod(info)
	return framework.Event{Kind: framework.PodChanged, OldPod: was, Pod: info, Namespace: p.Namespace}
}

// TestHintsMissNothing: if plugins reject a pod on all nodes, and after an event
// they do not any more, one of those that did says of the event that it may
// help. HINT_ROUNDS sets how many clusters are tried.
func TestHintsMissNothing(t *testing.T) {
	rounds := 1000
	if n, err := strconv.Atoi(os.Getenv("HINT_ROUNDS")); err == nil {
		rounds = n
	}
	all := []framework.FilterPlugin{
		nodeunschedulable.Plugin{}, tainttoleration.Plugin{}, nodeaffinity.Plugin{}, nodeports.Plugin{}, noderesources.Fit{},
		&podtopologyspread.Plugin{DefaultSelector: byApp},
		&interpodaffinity.Plugin{Namespace: func(name string) labels.Set { return namespaces[name] }, HardWeight: 1},
	}
	// Each plugin by itself, and all together.
	sets := map[string][]framework.FilterPlugin{"all": all}
	for _, p := range all {
		sets[p.Name()] = []framework.FilterPlugin{p}
	}
	cured := map[string]int{}
	for round := range rounds {
		for name, plugins := range sets {
			w := newWorld(t, uint64(round))
			w.size = min(w.size, 2+w.r.IntN(4))
			for i := w.size; i < 15; i++ {
				w.cache.DeleteNode(fmt.Sprintf("n%d", i))
			}
			for i := range w.r.IntN(8) {
				w.put(fmt.Sprint("early-", i), template(w.r))
			}
			waiting := template(w.r)
			waiting.Name, waiting.UID = "waiting", "waiting"
			pod := framework.NewPodInfo(waiting)
			look := func() (fits bool, rejectedBy []string) {
				k := class.New(&framework.Profile{Filter: plugins}, w.cache, pod, seed)
				return k.Best() != nil, k.RejectedBy()
			}
			before, rejectedBy := look()
			for range 8 {
				nodes := w.cache.Len()
				ev, what := w.event()
				now, next := look()
				if nodes > 0 && !before && now {
					cured[name]++
					if !slices.ContainsFunc(plugins, func(p framework.FilterPlugin) bool {
						return slices.Contains(rejectedBy, p.Name()) && p.(framework.HintPlugin).Cures(pod, ev)
					}) {
						t.Errorf("round %d, %s: %s, which is said not to help those rejected by %v, but does", round, name, what, rejectedBy)
					}
				}
				before, rejectedBy = now, next
			}
		}
	}
	for name := range sets {
		if cured[name] == 0 {
			t.Errorf("%s was never tried", name)
		}
	}
}
