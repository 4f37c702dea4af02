// Package pods is what the controllers that own pods have in common: how pods
// are made from a template and removed, and what state they are in.
package pods

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/expect"
	"skiff/internal/controllers/index"
)

// Reasons of the Events that creations and deletions leave at the owner.
const (
	reasonCreateFailed = "FailedCreate"
	reasonCreated      = "SuccessfulCreate"
	reasonDeleteFailed = "FailedDelete"
	reasonDeleted      = "SuccessfulDelete"
)

// Control makes and removes pods on behalf of their owners.
type Control struct {
	Client   client.Client
	Recorder record.EventRecorder
	Tracker  *expect.Tracker
}

// FromTemplate returns a pod as the template says, controlled by owner. Its
// name is generated from the owner's.
func FromTemplate(template *corev1.PodTemplateSpec, owner client.Object, ref *metav1.OwnerReference) *corev1.Pod {
	t := template.DeepCopy()
	prefix := owner.GetName() + "-"
	if len(validation.IsDNS1123Subdomain(prefix+"x")) != 0 {
		prefix = owner.GetName()
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			GenerateName:    prefix,
			Labels:          t.Labels,
			Annotations:     t.Annotations,
			Finalizers:      t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*ref},
		},
		Spec: t.Spec,
	}
}

// Create stores the pod and says so in an Event at owner. In a namespace that
// is being deleted it fails silently.
func (c *Control) Create(ctx context.Context, owner client.Object, pod *corev1.Pod) error {
	if len(pod.Labels) == 0 {
		return fmt.Errorf("unable to create pods, no labels")
	}
	if err := c.Client.Create(ctx, pod); err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.Recorder.Eventf(owner, corev1.EventTypeWarning, reasonCreateFailed, "Error creating: %v", err)
		}
		return err
	}
	c.Tracker.Created(client.ObjectKeyFromObject(owner), pod)
	c.Recorder.Eventf(owner, corev1.EventTypeNormal, reasonCreated, "Created pod: %v", pod.Name)
	return nil
}

// Delete asks for the pod's deletion and says so in an Event at owner. A pod
// that is already gone is no error.
func (c *Control) Delete(ctx context.Context, owner client.Object, pod *corev1.Pod) error {
	err := c.Client.Delete(ctx, pod, client.Preconditions{UID: &pod.UID})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		c.Recorder.Eventf(owner, corev1.EventTypeWarning, reasonDeleteFailed, "Error deleting: %v", err)
		return err
	}
	c.Tracker.Deleted(client.ObjectKeyFromObject(owner), pod.UID)
	c.Recorder.Eventf(owner, corev1.EventTypeNormal, reasonDeleted, "Deleted pod: %v", pod.Name)
	return nil
}

// SlowStart calls f with 0 to n-1, in batches that double from 1, those of a
// batch at once. It stops after a batch with an error: what cannot work (a
// quota, a broken webhook) is tried once and not n times. It returns the
// number of successes and the first error.
func SlowStart(n int, f func(i int) error) (int, error) {
	done := 0
	for begin, batch := 0, 1; begin < n; begin, batch = begin+batch, batch*2 {
		errs := make([]error, min(batch, n-begin))
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = f(begin + i) })
		}
		wg.Wait()
		var first error
		for _, err := range errs {
			if err == nil {
				done++
			} else if first == nil {
				first = err
			}
		}
		if first != nil {
			return done, first
		}
	}
	return done, nil
}

// Owned lists the pods that owner controls or might adopt, from the cache.
// The pods are shared.
func Owned(ctx context.Context, cache client.Reader, owner client.Object, selector labels.Selector) ([]*corev1.Pod, error) {
	var all []*corev1.Pod
	for _, key := range []string{string(owner.GetUID()), index.Orphans} {
		var list corev1.PodList
		options := []client.ListOption{client.InNamespace(owner.GetNamespace()), client.MatchingFields{index.Controller: key}, client.UnsafeDisableDeepCopy}
		if key == index.Orphans {
			options = append(options, client.MatchingLabelsSelector{Selector: selector})
		}
		if err := cache.List(ctx, &list, options...); err != nil {
			return nil, err
		}
		for i := range list.Items {
			all = append(all, &list.Items[i])
		}
	}
	return all, nil
}

// Finished reports whether all containers ended for good.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Active reports whether the pod runs or will run.
func Active(p *corev1.Pod) bool { return !Finished(p) && p.DeletionTimestamp == nil }

// Condition returns the pod's condition of that type, or nil.
func Condition(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// Ready reports whether the pod's condition Ready is true.
func Ready(p *corev1.Pod) bool {
	c := Condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// AvailableIn returns how long a ready pod must stay ready until it has been
// ready for minReadySeconds; 0 if it has, and ok=false if it is not ready.
func AvailableIn(p *corev1.Pod, minReadySeconds int32, now time.Time) (left time.Duration, ok bool) {
	c := Condition(p, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return 0, false
	}
	if minReadySeconds == 0 {
		return 0, true
	}
	if c.LastTransitionTime.IsZero() {
		return 0, false
	}
	return max(0, c.LastTransitionTime.Add(time.Duration(minReadySeconds)*time.Second).Sub(now)), true
}

// Available reports whether the pod has been ready for minReadySeconds.
func Available(p *corev1.Pod, minReadySeconds int32, now time.Time) bool {
	left, ok := AvailableIn(p, minReadySeconds, now)
	return ok && left == 0
}

// SetDisruptionTarget adds the condition that says why a pod is about to be
// deleted (KEP-3329); it reports whether the pod changed.
func SetDisruptionTarget(p *corev1.Pod, reason, message string, now time.Time) bool {
	if c := Condition(p, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue {
		return false
	}
	c := corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now)}
	if old := Condition(p, corev1.DisruptionTarget); old != nil {
		*old = c
	} else {
		p.Status.Conditions = append(p.Status.Conditions, c)
	}
	return true
}
