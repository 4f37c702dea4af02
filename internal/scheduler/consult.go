package scheduler

import (
	"context"
	"fmt"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"

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
		o := &opinion{pod: pod.Pod, scores: make(map[string]int64), failures: make(map[*framework.Status]int)}
		if n := s.nominatedLocked(k, pod.PodInfo); n != nil {
			o.nodes = []*corev1.Node{n.Node}
		} else {
			for n, score := range k.Feasible {
				o.nodes = append(o.nodes, n.Node)
				o.scores[n.Node.Name] = score
			}
		}
		if len(o.nodes) == 0 {
			return s.rejectLocked(k, pod)
		}
		s.mu.Unlock()
		err := o.ask(ctx, asked)
		best := o.best(s.seed)
		s.mu.Lock()
		switch {
		case err != nil:
			s.mu.queue.Retry(pod.UID)
			return decision{pod: pod, message: err.Error(), failed: true}
		case best == "":
			return s.rejectForLocked(pod, o)
		}
		if n := s.mu.cache.Node(best); n != nil && s.classLocked(pod.PodInfo).Fits(n, n) == nil {
			return s.assumeLocked(pod, best)
		}
	}
	return decision{pod: pod, message: ctx.Err().Error(), failed: true}
}

// rejectForLocked returns the pod to the queue because extenders left no node.
func (s *Scheduler) rejectForLocked(pod *framework.QueuedPod, o *opinion) decision {
	k := s.classLocked(pod.PodInfo)
	k.Best()
	maps.Copy(o.failures, k.Reasons())
	s.mu.queue.Reject(pod.UID, append(k.RejectedBy(), extender.Plugin), false)
	return decision{pod: pod, message: framework.Summary(s.mu.cache.Len(), o.failures)}
}

// opinion is what extenders think.
type opinion struct {
	pod      *corev1.Pod
	nodes    []*corev1.Node
	scores   map[string]int64
	failures map[*framework.Status]int
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
		for _, why := range failed {
			o.failures[why]++
		}
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
