package replicaset

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/pods"
)

// Set is a ReplicaSet or ReplicationController and the pods it controls.
type Set struct {
	Object   crclient.Object
	Ref      *metav1.OwnerReference
	Replicas int32
	Template *corev1.PodTemplateSpec
	Pods     []*corev1.Pod
}

// Manage makes or removes as many pods as are missing or too many, at most
// burst of them.
func Manage(ctx context.Context, s Set, control *pods.Control, related func() []*corev1.Pod, now time.Time) error {
	active := filter(s.Pods, pods.Active)
	diff := int(s.Replicas) - len(active)
	if diff >= 0 {
		_, err := pods.SlowStart(min(diff, burst), func(int) error {
			return control.Create(ctx, s.Object, pods.FromTemplate(s.Template, s.Object, s.Ref))
		})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	}
	extra := pods.ToDelete(active, related(), min(-diff, burst), now)
	_, err := pods.SlowStart(len(extra), func(i int) error { return control.Delete(ctx, s.Object, extra[i]) })
	return err
}

// Status counts the pods; failure is what Manage returned.
func Status(rs *appsv1.ReplicaSet, owned []*corev1.Pod, failure error, now time.Time) appsv1.ReplicaSetStatus {
	status := *rs.Status.DeepCopy()
	status.ObservedGeneration = rs.Generation
	status.Replicas, status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = 0, 0, 0, 0
	var terminating int32
	template := labels.Set(rs.Spec.Template.Labels).AsSelectorPreValidated()
	for _, p := range owned {
		if p.DeletionTimestamp != nil && !pods.Finished(p) {
			terminating++
		}
		if !pods.Active(p) {
			continue
		}
		status.Replicas++
		if template.Matches(labels.Set(p.Labels)) {
			status.FullyLabeledReplicas++
		}
		if pods.Ready(p) {
			status.ReadyReplicas++
			if pods.Available(p, rs.Spec.MinReadySeconds, now) {
				status.AvailableReplicas++
			}
		}
	}
	status.TerminatingReplicas = &terminating
	status.Conditions = conditions(status.Conditions, *rs.Spec.Replicas-int32(len(filter(owned, pods.Active))), failure, now)
	return status
}

// conditions sets ReplicaFailure while pods cannot be made or removed.
func conditions(have []appsv1.ReplicaSetCondition, missing int32, failure error, now time.Time) []appsv1.ReplicaSetCondition {
	var kept []appsv1.ReplicaSetCondition
	present := false
	for _, c := range have {
		if c.Type != appsv1.ReplicaSetReplicaFailure {
			kept = append(kept, c)
		} else if failure != nil {
			kept = append(kept, c)
			present = true
		}
	}
	if failure == nil || present {
		return kept
	}
	reason := "FailedCreate"
	if missing < 0 {
		reason = "FailedDelete"
	}
	return append(kept, appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(now), Reason: reason, Message: failure.Error(),
	})
}

// NextAvailable returns when the next ready pod becomes available, or 0 if
// there is none to wait for.
func NextAvailable(owned []*corev1.Pod, minReadySeconds int32, now time.Time) time.Duration {
	var next time.Duration
	for _, p := range owned {
		if left, ok := pods.AvailableIn(p, minReadySeconds, now); pods.Active(p) && ok && left > 0 && (next == 0 || left < next) {
			next = left
		}
	}
	return next
}

func filter(all []*corev1.Pod, keep func(*corev1.Pod) bool) []*corev1.Pod {
	var kept []*corev1.Pod
	for _, p := range all {
		if keep(p) {
			kept = append(kept, p)
		}
	}
	return kept
}
