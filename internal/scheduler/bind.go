package scheduler

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/extender"
	"skiff/internal/scheduler/framework"
)

// bind binds a pod to the node that was decided on, or takes the decision back.
func (s *Scheduler) bind(ctx context.Context, d decision) {
	if why := s.tryBind(ctx, d.pod.Pod, d.node); why != nil {
		s.unassume(d)
		if ctx.Err() != nil {
			return
		}
		s.log.Info("a pod could not be bound", "pod", crclient.ObjectKeyFromObject(d.pod.Pod), "node", d.node, "error", why)
		d.message, d.failed = why.Message(), why.Code == framework.Failed
		s.report(ctx, d)
		return
	}
	profile := s.profileOf(d.pod.Pod)
	profile.metrics.ended(outcomeScheduled, time.Since(d.began))
	s.metrics.scheduled(d.pod, s.clock.Now())
	profile.recorder.Eventf(d.pod.Pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %v/%v to %v", d.pod.Namespace, d.pod.Name, d.node)
	began := time.Now()
	for _, p := range profile.PostBind {
		p.PostBind(ctx, d.pod.Pod, d.node)
	}
	profile.metrics.passed("PostBind", began, nil)
}

func (s *Scheduler) tryBind(ctx context.Context, pod *corev1.Pod, node string) *framework.Status {
	profile := s.profileOf(pod)
	began := time.Now()
	for _, p := range profile.Permit {
		if why := p.Permit(ctx, pod, node); why != nil {
			profile.metrics.passed("Permit", began, why)
			return why
		}
	}
	profile.metrics.passed("Permit", began, nil)
	began = time.Now()
	for _, p := range profile.PreBind {
		if why := p.PreBind(ctx, pod, node); why != nil {
			profile.metrics.passed("PreBind", began, why)
			return why
		}
	}
	profile.metrics.passed("PreBind", began, nil)
	began = time.Now()
	for _, e := range s.interested(pod) {
		if e.Binds() {
			if err := e.Bind(ctx, pod, node); err != nil {
				return framework.NewStatus(framework.Failed, extender.Plugin, err.Error())
			}
			return nil
		}
	}
	for _, p := range profile.Bind {
		if why := p.Bind(ctx, pod, node); why == nil || why.Code != framework.Skip {
			profile.metrics.passed("Bind", began, why)
			return why
		}
	}
	return framework.NewStatus(framework.Failed, "", "no plugin bound the pod")
}

// unassume takes a decision back: the pod is tried again, and others may take
// its place.
func (s *Scheduler) unassume(d decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.profileOf(d.pod.Pod).Reserve {
		p.Unreserve(d.pod.PodInfo, d.node)
	}
	if p := s.mu.cache.Forget(d.pod.UID); p != nil {
		s.mu.queue.Wake(framework.Event{Kind: framework.PodGone, OldPod: p, Host: s.mu.cache.Node(d.node), Namespace: p.Namespace})
	}
	s.mu.queue.Retry(d.pod.UID)
	s.wake()
}

// report says why a pod was not scheduled, in its status and in an event, and
// makes room for it if it can be made.
func (s *Scheduler) report(ctx context.Context, d decision) {
	s.profileOf(d.pod.Pod).recorder.Event(d.pod.Pod, corev1.EventTypeWarning, "FailedScheduling", d.message)
	reason, outcome := corev1.PodReasonUnschedulable, outcomeUnschedulable
	if d.failed {
		reason, outcome = corev1.PodReasonSchedulerError, outcomeError
	}
	s.profileOf(d.pod.Pod).metrics.ended(outcome, time.Since(d.began))
	nominated := d.pod.Status.NominatedNodeName
	if d.nomination != nil {
		nominated = d.nomination.Node
	}
	err := s.writeStatus(ctx, d.pod.Pod, &corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: d.message,
	}, nominated)
	if err != nil && ctx.Err() == nil {
		s.log.Warn("the status of a pod could not be written", "pod", crclient.ObjectKeyFromObject(d.pod.Pod), "error", err)
	}
	if d.nomination == nil || d.nomination.MakeRoom == nil {
		return
	}
	err = d.nomination.MakeRoom(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.log.Warn("room could not be made for a pod", "pod", crclient.ObjectKeyFromObject(d.pod.Pod), "node", nominated, "error", err)
		s.nominateLocked(d.pod.PodInfo, "")
		s.mu.queue.Retry(d.pod.UID)
	} else {
		for _, v := range d.nomination.Victims {
			s.mu.cache.Going(v.UID, metav1.NewTime(s.clock.Now()))
		}
		s.mu.queue.Release(d.pod.UID)
	}
	s.wake()
}
