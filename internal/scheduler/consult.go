package scheduler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"skiff/internal/scheduler/class"
	"skiff/internal/scheduler/extender"
	"skiff/internal/scheduler/framework"
)

// interested returns the extenders that want to be asked about the pod.
func (s *Scheduler) interested(pod *corev1.Pod) []*extender.Extender {
	var out []*extender.Extender
	for _, e := range s.extenders {
		if e.Interested(pod) {
			out = append(out, e)
		}
	}
	return out
}

// consultLocked decides about a pod together with extenders. It lets go of the
// lock while they are asked, so that events are taken in, and asks again if the
// node they chose will not do any more.
func (s *Scheduler) consultLocked(ctx context.Context, pod *framework.QueuedPod, asked []*extender.Extender) decision {
	for ctx.Err() == nil {
		k := s.classLocked(pod.PodInfo)
		o := &opinion{pod: pod.Pod, scores: make(map[string]int64), failures: make(map[string]*framework.Status)}
		if n := s.nominatedLocked(k, pod.PodInfo); n != nil {
			o.nodes = []*corev1.Node{n.Node}
		} else {
			o.nodes = s.presentedLocked(k, s.profileOf(pod.Pod).percentage, o.scores)
		}
		if len(o.nodes) > 0 {
			s.mu.Unlock()
			err := o.ask(ctx, asked)
			s.mu.Lock()
			if err != nil {
				s.mu.queue.Retry(pod.UID)
				return decision{pod: pod, message: err.Error(), failed: true}
			}
		}
		best := o.best(s.seed)
		if best == "" {
			return s.refusedLocked(ctx, pod, asked, o.failures)
		}
		if n := s.mu.cache.Node(best); n != nil && s.classLocked(pod.PodInfo).Fits(n, n) == nil {
			return s.assumeLocked(pod, best)
		}
	}
	return decision{pod: pod, message: ctx.Err().Error(), failed: true}
}

// presentedLocked returns the nodes that extenders are asked about, and notes
// their scores. In large clusters these are some of those that will do, others
// each time.
func (s *Scheduler) presentedLocked(k *class.Class, percentage int32, scores map[string]int64) []*corev1.Node {
	var all []*corev1.Node
	for n, score := range k.Feasible {
		all = append(all, n.Node)
		scores[n.Node.Name] = score
	}
	enough := enoughNodes(percentage, s.mu.cache.Len())
	if len(all) <= enough {
		return all
	}
	first := s.mu.presented % len(all)
	s.mu.presented = first + enough
	return slices.Concat(all[first:], all[:first])[:enough]
}

// enoughNodes is how many of so many nodes extenders are asked about: the given
// percentage, or if it is 0 half of a small cluster's and one in twenty of a
// large one's, but never less than a hundred.
func enoughNodes(percentage int32, nodes int) int {
	if percentage == 0 {
		percentage = int32(max(50-nodes/125, 5))
	}
	return min(max(nodes*int(percentage)/100, 100), nodes)
}

// refusedLocked returns the pod to the queue because rules and extenders left no
// node.
func (s *Scheduler) refusedLocked(ctx context.Context, pod *framework.QueuedPod, asked []*extender.Extender, failures map[string]*framework.Status) decision {
	k := s.classLocked(pod.PodInfo)
	k.Best()
	t := refusal{failures: failures, trial: trial{Class: k, nominated: s.mu.nominated[pod.UID], consult: func(victims map[string]framework.Victims) (map[string]framework.Victims, error) {
		return s.agreeLocked(ctx, pod.Pod, asked, victims)
	}}}
	if len(failures) == 0 {
		return s.rejectLocked(pod, k.Message(), k.RejectedBy(), t)
	}
	return s.rejectLocked(pod, framework.Summary(k.Nodes(), t.Reasons()), append(k.RejectedBy(), extender.Plugin), t)
}

// refusal is a trial that knows also what extenders said of nodes.
type refusal struct {
	trial
	failures map[string]*framework.Status
}

func (r refusal) Why(n *framework.NodeInfo) *framework.Status {
	if why := r.trial.Why(n); why != nil || n.Node == nil {
		return why
	}
	return r.failures[n.Node.Name]
}

func (r refusal) Failures(yield func(n *framework.NodeInfo, why *framework.Status) bool) {
	for n, why := range r.trial.Failures {
		if !yield(n, why) {
			return
		}
	}
	for name, why := range r.failures {
		if n := r.Node(name); n != nil && r.trial.Why(n) == nil && !yield(n, why) {
			return
		}
	}
}

func (r refusal) Reasons() map[*framework.Status]int {
	all := maps.Clone(r.trial.Reasons())
	for name, why := range r.failures {
		if n := r.Node(name); n != nil && r.trial.Why(n) == nil {
			all[why]++
		}
	}
	return all
}

// agreeLocked asks extenders, one after the other, whether pods may be removed
// to make room. It lets go of the lock while they are asked.
func (s *Scheduler) agreeLocked(ctx context.Context, pod *corev1.Pod, asked []*extender.Extender, victims map[string]framework.Victims) (map[string]framework.Victims, error) {
	for _, e := range asked {
		if !e.Preempts() || len(victims) == 0 {
			continue
		}
		s.mu.Unlock()
		answer, err := e.Preempt(ctx, pod, victims)
		s.mu.Lock()
		var next map[string]framework.Victims
		if err == nil {
			next, err = s.victimsLocked(e, answer)
		}
		switch {
		case err == nil:
			victims = next
		case !e.Ignorable():
			return nil, err
		}
	}
	return victims, nil
}

// victimsLocked finds the pods that an extender names.
func (s *Scheduler) victimsLocked(e *extender.Extender, answer map[string]*extenderv1.MetaVictims) (map[string]framework.Victims, error) {
	out := make(map[string]framework.Victims, len(answer))
	for name, meta := range answer {
		n := s.mu.cache.Node(name)
		if n == nil {
			return nil, fmt.Errorf("extender %s: it would make room on node %q, which does not exist", e.Name(), name)
		}
		if meta == nil || len(meta.Pods) == 0 {
			if e.Ignorable() {
				continue
			}
			return nil, fmt.Errorf("expected at least one victim pod on node %q", name)
		}
		v := framework.Victims{Violations: int(meta.NumPDBViolations)}
		for _, p := range meta.Pods {
			i := slices.IndexFunc(n.Pods, func(o *framework.PodInfo) bool { return string(o.UID) == p.UID })
			if i < 0 {
				return nil, fmt.Errorf("extender: %v claims to preempt pod (UID: %v) on node: %v, but the pod is not found on that node", e.Name(), p.UID, name)
			}
			v.Pods = append(v.Pods, n.Pods[i])
		}
		out[name] = v
	}
	return out, nil
}

// opinion is what extenders think.
type opinion struct {
	pod    *corev1.Pod
	nodes  []*corev1.Node
	scores map[string]int64
	// failures are why nodes will not do, by their names.
	failures map[string]*framework.Status
}

// ask asks all which nodes will do, one after the other, and then which are
// better.
func (o *opinion) ask(ctx context.Context, asked []*extender.Extender) error {
	for _, e := range asked {
		if !e.Filters() || len(o.nodes) == 0 {
			continue
		}
		kept, failed, err := e.Filter(ctx, o.pod, o.nodes)
		if err != nil {
			if e.Ignorable() {
				continue
			}
			return fmt.Errorf("extender %s: %w", e.Name(), err)
		}
		o.nodes = kept
		maps.Copy(o.failures, failed)
	}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, e := range asked {
		if !e.Prioritizes() || len(o.nodes) < 2 {
			continue
		}
		asking.Go(func() {
			// Without an answer the others' opinion is enough.
			scores, err := e.Prioritize(ctx, o.pod, o.nodes)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for name, score := range scores {
				o.scores[name] += score
			}
		})
	}
	asking.Wait()
	return nil
}

// best returns the name of the best node, or "".
func (o *opinion) best(seed uint64) (best string) {
	for _, n := range o.nodes {
		a, b := o.scores[n.Name], o.scores[best]
		if best == "" || a > b || a == b && class.Tie(seed, n.Name) > class.Tie(seed, best) {
			best = n.Name
		}
	}
	return best
}
