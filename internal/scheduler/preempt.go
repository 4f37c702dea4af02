package scheduler

import (
	"context"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// budgets returns all disruption budgets.
func (s *Scheduler) budgets() []policyv1.PodDisruptionBudget {
	list := &policyv1.PodDisruptionBudgetList{}
	// It reads memory only.
	if err := s.client.Cache.List(context.Background(), list, crclient.UnsafeDisableDeepCopy); err != nil {
		s.log.Warn("disruption budgets could not be read", "error", err)
	}
	return list.Items
}

// evict deletes a pod that is in the way of another one, and says so.
func (s *Scheduler) evict(ctx context.Context, preemptor, victim *corev1.Pod, node string) error {
	if victim.DeletionTimestamp == nil {
		err := s.writeStatus(ctx, victim, &corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message: preemptor.Spec.SchedulerName + ": preempting to accommodate a higher priority pod",
		}, victim.Status.NominatedNodeName)
		if err != nil {
			return err
		}
		err = s.client.Client.Delete(ctx, victim, crclient.Preconditions{UID: &victim.UID})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			// It is gone; what may have its name now is another one.
			return nil
		}
		if err != nil {
			return err
		}
	}
	s.profileOf(preemptor).recorder.Eventf(victim, corev1.EventTypeNormal, "Preempted", "Preempted by pod %v on node %v", preemptor.UID, node)
	return nil
}

// displace takes a nomination out of the status of a pod.
func (s *Scheduler) displace(ctx context.Context, pod *corev1.Pod) error {
	return s.writeStatus(ctx, pod, nil, "")
}

func anywhere(n int) int { return rand.IntN(n) }
