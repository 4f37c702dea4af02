package deployment

import (
	"fmt"
	"math"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of conditions that decisions depend on.
const (
	reasonAvailable    = "NewReplicaSetAvailable"
	reasonTimedOut     = "ProgressDeadlineExceeded"
	reasonPaused       = "DeploymentPaused"
	reasonCreateFailed = "ReplicaSetCreateError"
)

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// status counts what the ReplicaSets say.
func (w *rollout) status() appsv1.DeploymentStatus {
	d := w.d
	status := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation,
		CollisionCount:     d.Status.CollisionCount,
		Conditions:         append([]appsv1.DeploymentCondition(nil), d.Status.Conditions...),
	}
	var terminating int32
	var asked int32
	for _, s := range w.all() {
		asked += *s.Spec.Replicas
		status.Replicas += s.Status.Replicas
		status.ReadyReplicas += s.Status.ReadyReplicas
		status.AvailableReplicas += s.Status.AvailableReplicas
		if s.Status.TerminatingReplicas != nil {
			terminating += *s.Status.TerminatingReplicas
		}
	}
	status.TerminatingReplicas = &terminating
	status.UnavailableReplicas = max(0, asked-status.AvailableReplicas)
	if w.new != nil {
		status.UpdatedReplicas = w.new.Status.Replicas
	}
	available := newCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", w.now)
	if status.AvailableReplicas >= *d.Spec.Replicas-maxUnavailable(d) {
		available = newCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.", w.now)
	}
	set(&status, available)
	return status
}

// progress is status, and with it what it says about the rollout.
func (w *rollout) progress() {
	d, status := w.d, w.status()
	subject := fmt.Sprintf("Deployment %q", d.Name)
	if w.new != nil {
		subject = fmt.Sprintf("ReplicaSet %q", w.new.Name)
	}
	current := condition(&status, appsv1.DeploymentProgressing)
	done := status.Replicas == status.UpdatedReplicas && current != nil && current.Reason == reasonAvailable
	switch {
	case !hasDeadline(d):
		remove(&status, appsv1.DeploymentProgressing)
	case done:
	case complete(d, &status):
		set(&status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, subject+" has successfully progressed.", w.now))
	case progressed(&d.Status, &status):
		next := newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", subject+" is progressing.", w.now)
		if current != nil && current.Status == corev1.ConditionTrue {
			next.LastTransitionTime = current.LastTransitionTime
		}
		remove(&status, appsv1.DeploymentProgressing)
		set(&status, next)
	case timedOut(d, &status, w.now):
		set(&status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.", w.now))
	}
	if failure := w.failure(); failure != nil {
		set(&status, *failure)
	} else {
		remove(&status, appsv1.DeploymentReplicaFailure)
	}
	d.Status = status
}

// failure is the condition ReplicaFailure of the new ReplicaSet, or else of any.
func (w *rollout) failure() *appsv1.DeploymentCondition {
	order := w.old
	if w.new != nil {
		order = append([]*appsv1.ReplicaSet{w.new}, w.old...)
	}
	for _, s := range order {
		for _, c := range s.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

// notePause notes in the condition Progressing that the rollout was paused or
// resumed, so that the time of the pause does not count for the deadline.
func (w *rollout) notePause() {
	current := condition(&w.d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(w.d) || (current != nil && current.Reason == reasonTimedOut) {
		return
	}
	paused := current != nil && current.Reason == reasonPaused
	switch {
	case w.d.Spec.Paused && !paused:
		w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !w.d.Spec.Paused && paused:
		w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed")
	}
}

// complete reports whether all replicas are of the newest revision and
// available, and no others are left.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want && s.ObservedGeneration >= d.Generation
}

func progressed(before, now *appsv1.DeploymentStatus) bool {
	return now.UpdatedReplicas > before.UpdatedReplicas ||
		now.Replicas-now.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		now.ReadyReplicas > before.ReadyReplicas ||
		now.AvailableReplicas > before.AvailableReplicas
}

func timedOut(d *appsv1.Deployment, s *appsv1.DeploymentStatus, now time.Time) bool {
	c := condition(s, appsv1.DeploymentProgressing)
	if c == nil || c.Reason == reasonAvailable {
		return false
	}
	return c.Reason == reasonTimedOut || c.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds)*time.Second).Before(now)
}

func (w *rollout) setCondition(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	set(&w.d.Status, newCondition(kind, status, reason, message, w.now))
}

func newCondition(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) appsv1.DeploymentCondition {
	at := metav1.NewTime(now)
	return appsv1.DeploymentCondition{Type: kind, Status: status, Reason: reason, Message: message, LastUpdateTime: at, LastTransitionTime: at}
}

func condition(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

// set replaces the condition of c's type, unless status and reason are as they
// were.
func set(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	if current := condition(s, c.Type); current != nil {
		if current.Status == c.Status && current.Reason == c.Reason {
			return
		}
		if current.Status == c.Status {
			c.LastTransitionTime = current.LastTransitionTime
		}
	}
	remove(s, c.Type)
	s.Conditions = append(s.Conditions, c)
}

func remove(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) {
	var kept []appsv1.DeploymentCondition
	for _, c := range s.Conditions {
		if c.Type != kind {
			kept = append(kept, c)
		}
	}
	s.Conditions = kept
}
