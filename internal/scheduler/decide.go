package scheduler

import (
	"context"
	"slices"
	"strings"
	"time"

	"skiff/internal/scheduler/class"
	"skiff/internal/scheduler/framework"
)

// decision is what is to be done about a pod.
type decision struct {
	pod *framework.QueuedPod
	// node is where it goes; empty if it fits nowhere.
	node string
	// message is why it fits nowhere, reason the kind of failure.
	message string
	failed  bool
	// nomination is how room is made for it, if it can be.
	nomination *framework.Nomination
	// began is when the attempt did.
	began time.Time
}

// next decides about the first pod of the queue and assumes the decision. It
// returns false if no pod is waiting to be tried.
func (s *Scheduler) next(ctx context.Context) (decision, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pod := s.mu.queue.Take()
	if pod == nil {
		return decision{}, false
	}
	began := time.Now()
	var d decision
	if s.wantsDevices(pod.PodInfo) {
		pod.PodInfo = pod.Alone()
	}
	if asked := s.interested(pod.Pod); len(asked) > 0 {
		d = s.consultLocked(ctx, pod, asked)
	} else {
		d = s.decideLocked(pod)
	}
	d.began = began
	s.metrics.algorithm.Observe(time.Since(began).Seconds())
	return d, true
}

func (s *Scheduler) decideLocked(pod *framework.QueuedPod) decision {
	began := time.Now()
	k := s.classLocked(pod.PodInfo)
	n := s.nominatedLocked(k, pod.PodInfo)
	if n == nil {
		n = k.Best()
	}
	var why *framework.Status
	if n == nil {
		why = &framework.Status{Code: framework.Unschedulable}
	}
	s.profileOf(pod.Pod).metrics.passed("Filter", began, why)
	if n == nil {
		return s.rejectLocked(pod, k.Message(), k.RejectedBy(), trial{Class: k, nominated: s.mu.nominated[pod.UID], consult: everybodyAgrees})
	}
	return s.assumeLocked(pod, n.Node.Name)
}

// assumeLocked puts the pod on the node, as far as the scheduler is concerned.
func (s *Scheduler) assumeLocked(pod *framework.QueuedPod, node string) decision {
	plugins := s.profileOf(pod.Pod).Reserve
	began := time.Now()
	for i, p := range plugins {
		if why := p.Reserve(pod.PodInfo, node); why != nil {
			s.profileOf(pod.Pod).metrics.passed("Reserve", began, why)
			for _, done := range slices.Backward(plugins[:i+1]) {
				done.Unreserve(pod.PodInfo, node)
			}
			s.mu.queue.Retry(pod.UID)
			return decision{pod: pod, message: why.Message(), failed: true}
		}
	}
	s.profileOf(pod.Pod).metrics.passed("Reserve", began, nil)
	s.nominateLocked(pod.PodInfo, "")
	s.mu.cache.Assume(pod.PodInfo, node)
	s.mu.queue.Helped(pod.UID)
	return decision{pod: pod, node: node}
}

// nominatedLocked returns the node on which room was made for the pod, if the
// pod fits there now.
func (s *Scheduler) nominatedLocked(k *class.Class, pod *framework.PodInfo) *framework.NodeInfo {
	n := s.mu.cache.Node(s.mu.nominated[pod.UID])
	if n == nil || k.Rejected() != nil || k.Fits(n, n) != nil {
		return nil
	}
	// Others for which room is made there go first if they are as important.
	view := n.Clone()
	for _, o := range n.Nominated {
		if o.UID != pod.UID && o.Priority >= pod.Priority {
			view.Add(o)
		}
	}
	if len(view.Pods) > len(n.Pods) && k.Fits(n, view) != nil {
		return nil
	}
	return n
}

// nominateLocked notes on which node room is being made for the pod.
func (s *Scheduler) nominateLocked(pod *framework.PodInfo, node string) {
	old := s.mu.nominated[pod.UID]
	if old == node {
		return
	}
	s.mu.cache.Nominate(pod, old, node)
	if node == "" {
		delete(s.mu.nominated, pod.UID)
	} else {
		s.mu.nominated[pod.UID] = node
	}
}

// rejectLocked returns the pod to the queue because of what the plugins said,
// and finds out how room can be made.
func (s *Scheduler) rejectLocked(pod *framework.QueuedPod, message string, plugins []string, t framework.Trial) decision {
	d := decision{pod: pod, message: message}
	if s.mu.cache.Len() == 0 {
		s.mu.queue.Reject(pod.UID, []string{noNodes}, false)
		return d
	}
	began := time.Now()
	var reasons []string
	for _, p := range s.profileOf(pod.Pod).PostFilter {
		nomination, why := p.PostFilter(pod.PodInfo, t)
		if why != nil {
			reasons = append(reasons, why.Message())
		}
		if nomination != nil {
			d.nomination = nomination
			for _, displaced := range nomination.Displaced {
				s.nominateLocked(displaced, "")
			}
			s.nominateLocked(pod.PodInfo, nomination.Node)
			if nomination.Node != "" {
				// There will be room, and nothing to complain of.
				reasons = nil
			}
			break
		}
		if why != nil && why.Code == framework.Failed {
			break
		}
	}
	if len(reasons) > 0 {
		d.message += " " + strings.Join(reasons, ", ")
	}
	s.madeRoom(pod, d.nomination, began)
	// While room is being made it would be made again if the pod were tried.
	makingRoom := d.nomination != nil && d.nomination.MakeRoom != nil
	if makingRoom {
		s.mu.queue.Helped(pod.UID)
	}
	s.mu.queue.Reject(pod.UID, plugins, makingRoom)
	return d
}

// madeRoom counts an attempt to make room for a pod.
func (s *Scheduler) madeRoom(pod *framework.QueuedPod, n *framework.Nomination, began time.Time) {
	var why *framework.Status
	if n == nil {
		why = &framework.Status{Code: framework.Unschedulable}
	}
	s.profileOf(pod.Pod).metrics.passed("PostFilter", began, why)
	s.metrics.preemptions.Inc()
	if n != nil && len(n.Victims) > 0 {
		s.metrics.victims.Observe(float64(len(n.Victims)))
	}
}

// trial is what a class knows, and where room is being made for one of its pods.
type trial struct {
	*class.Class
	nominated string
	consult   func(map[string]framework.Victims) (map[string]framework.Victims, error)
}

func (t trial) Nominated() string { return t.nominated }

func (t trial) Consult(victims map[string]framework.Victims) (map[string]framework.Victims, error) {
	return t.consult(victims)
}

func everybodyAgrees(victims map[string]framework.Victims) (map[string]framework.Victims, error) {
	return victims, nil
}

// noNodes stands for the plugins that had no node to reject: any new one helps.
const noNodes = ""

// carryOut does in the API what was decided. It blocks while too much is being
// written already. Lone pods may wait long for what others make for them, and
// take no writer's place meanwhile.
func (s *Scheduler) carryOut(ctx context.Context, d decision) {
	if !d.pod.Lone {
		s.slots <- struct{}{}
	}
	s.writing.Go(func() {
		if !d.pod.Lone {
			defer func() { <-s.slots }()
		}
		if d.node != "" {
			s.bind(ctx, d)
		} else {
			s.report(ctx, d)
		}
	})
}
