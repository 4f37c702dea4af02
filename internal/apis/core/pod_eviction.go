package core

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	pdbhelper "k8s.io/component-helpers/apps/poddisruptionbudget"

	"skiff/internal/apis"
)

// podEviction deletes a pod if its disruption budget can spare it.
func podEviction() apis.Subresource {
	return apis.Subresource{
		Name:  "eviction",
		Kind:  policyv1.SchemeGroupVersion.WithKind("Eviction"),
		New:   func() runtime.Object { return &policyv1.Eviction{} },
		Verbs: []string{"create"},
		Create: func(ctx context.Context, s apis.Storage, namespace, name string, body runtime.Object, dryRun bool) (runtime.Object, error) {
			eviction := body.(*policyv1.Eviction)
			if eviction.Name != "" && eviction.Name != name {
				return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
			}
			options := &metav1.DeleteOptions{}
			if eviction.DeleteOptions != nil {
				options = eviction.DeleteOptions.DeepCopy()
			}
			if dryRun {
				options.DryRun = []string{metav1.DryRunAll}
			}
			e := evictor{s: s, namespace: namespace, name: name, options: options, dryRun: len(options.DryRun) > 0}
			if err := e.evict(ctx); err != nil {
				return nil, err
			}
			return &metav1.Status{Status: metav1.StatusSuccess, Code: 201}, nil
		},
	}
}

func budgetResource() schema.GroupResource {
	return schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudgets"}
}

type evictor struct {
	s               apis.Storage
	namespace, name string
	options         *metav1.DeleteOptions
	dryRun          bool
}

// evictAttempts is how often a decision is made anew because the pod changed
// while it was made.
const evictAttempts = 20

func (e *evictor) evict(ctx context.Context) error {
	var err error
	for range evictAttempts {
		if err = e.try(ctx); !apierrors.IsConflict(err) || e.pinned() || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// pinned tells whether the client only means one version of the pod.
func (e *evictor) pinned() bool {
	return e.options.Preconditions != nil && e.options.Preconditions.ResourceVersion != nil
}

// try decides on the pod as it is now. The error is a conflict if the pod has
// changed meanwhile in a way that could change the decision.
func (e *evictor) try(ctx context.Context) error {
	obj, err := e.s.Get(ctx, podResource(), e.namespace, e.name)
	if err != nil {
		return err
	}
	pod := obj.(*corev1.Pod)
	if isFinished(pod) || pod.DeletionTimestamp != nil {
		return e.delete(ctx, nil)
	}
	if pod.Status.Phase == corev1.PodPending {
		if e.pinned() {
			return e.delete(ctx, nil)
		}
		return e.delete(ctx, &pod.ResourceVersion)
	}
	budget, err := e.budget(ctx, pod)
	if err != nil {
		return err
	}
	if budget == nil {
		return e.mark(ctx, pod, false)
	}
	// A pod that is not ready does not count as healthy: its end costs nothing.
	if !hasCondition(pod, corev1.PodReady) {
		always := budget.Spec.UnhealthyPodEvictionPolicy != nil && *budget.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow
		enough := budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy && budget.Status.DesiredHealthy > 0
		if always || enough {
			err := e.mark(ctx, pod, true)
			if apierrors.IsConflict(err) {
				return tooMany(budget.Name, 10, stillProcessed(budget.Name))
			}
			return err
		}
	}
	_, err = e.s.Update(ctx, budgetResource(), e.namespace, budget.Name, e.dryRun, func(obj apis.Object) error {
		return spend(obj.(*policyv1.PodDisruptionBudget), e.name, metav1.Now())
	})
	if err != nil {
		return err
	}
	return e.mark(ctx, pod, false)
}

// budget finds the one budget that covers the pod, or nil.
func (e *evictor) budget(ctx context.Context, pod *corev1.Pod) (found *policyv1.PodDisruptionBudget, err error) {
	several := false
	err = e.s.List(ctx, budgetResource(), e.namespace, func(obj apis.Object) bool {
		b := obj.(*policyv1.PodDisruptionBudget)
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		// An invalid selector selects nothing; neither does, here, an empty one.
		if err != nil || selector.Empty() || !selector.Matches(labels.Set(pod.Labels)) {
			return true
		}
		several = found != nil
		found = b
		return !several
	})
	if err == nil && several {
		err = &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: 500,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	}
	return found, err
}

// spend takes one disruption from a budget, for the pod of that name.
func spend(b *policyv1.PodDisruptionBudget, pod string, now metav1.Time) error {
	const mostDisrupted = 2000
	s := &b.Status
	refuse := func(why string) error {
		return apierrors.NewForbidden(schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudget"}, b.Name, fmt.Errorf("%s", why))
	}
	switch {
	case s.ObservedGeneration < b.Generation:
		return tooMany(b.Name, 10, stillProcessed(b.Name))
	case s.DisruptionsAllowed < 0:
		return refuse("pdb disruptions allowed is negative")
	case len(s.DisruptedPods) > mostDisrupted:
		return refuse("DisruptedPods map too big - too many evictions not confirmed by PDB controller")
	case s.DisruptionsAllowed == 0:
		c := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
		if c != nil && c.Status == metav1.ConditionFalse && c.Reason == policyv1.SyncFailedReason {
			return tooMany(b.Name, 0, fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %v", b.Name, c.Message))
		}
		return tooMany(b.Name, 0, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, s.DesiredHealthy, s.CurrentHealthy))
	}
	s.DisruptionsAllowed--
	if s.DisruptionsAllowed == 0 {
		pdbhelper.UpdateDisruptionAllowedCondition(b)
	}
	// The controller must not count a pod that is about to go.
	if s.DisruptedPods == nil {
		s.DisruptedPods = map[string]metav1.Time{}
	}
	s.DisruptedPods[pod] = now
	return nil
}

func stillProcessed(budget string) string {
	return fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget)
}

// tooMany tells the client to try again, after that many seconds if not 0.
func tooMany(budget string, seconds int, cause string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", seconds)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: cause})
	return err
}

// mark writes into the pod why it goes, and deletes it. With unchanged set, or
// if the client asks for it, only a pod that is still as it was.
func (e *evictor) mark(ctx context.Context, pod *corev1.Pod, unchanged bool) error {
	if e.dryRun {
		return e.delete(ctx, nil)
	}
	marked, err := e.s.Update(ctx, podResource(), e.namespace, e.name, false, func(obj apis.Object) error {
		now := obj.(*corev1.Pod)
		if err := e.precondition(now, pod, unchanged); err != nil {
			return apierrors.NewConflict(podResource(), e.name, err)
		}
		setPodCondition(&now.Status, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI",
			Message: "Eviction API: evicting", LastTransitionTime: metav1.Now(), ObservedGeneration: now.Generation,
		})
		return nil
	})
	if err != nil {
		return err
	}
	var version *string
	if unchanged || e.pinned() {
		v := marked.GetResourceVersion()
		version = &v
	}
	return e.delete(ctx, version)
}

func (e *evictor) precondition(now, then *corev1.Pod, unchanged bool) error {
	if unchanged && now.ResourceVersion != then.ResourceVersion {
		return fmt.Errorf("the pod has changed since the decision to evict it")
	}
	p := e.options.Preconditions
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != now.UID {
		return fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, now.UID)
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != now.ResourceVersion {
		return fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *p.ResourceVersion, now.ResourceVersion)
	}
	return nil
}

// delete deletes the pod; a version replaces the client's precondition on it.
func (e *evictor) delete(ctx context.Context, version *string) error {
	options := e.options.DeepCopy()
	if version != nil {
		if options.Preconditions == nil {
			options.Preconditions = &metav1.Preconditions{}
		}
		options.Preconditions.ResourceVersion = version
	}
	return e.s.Delete(ctx, podResource(), e.namespace, e.name, options)
}
