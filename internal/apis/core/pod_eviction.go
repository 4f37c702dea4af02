package core

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	pdbhelper "k8s.io/component-helpers/apps/poddisruptionbudget"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
)

// podEviction deletes a pod if its disruption budget can spare it.
func podEviction() apis.Subresource {
	return apis.Subresource{
		Name:        "eviction",
		Kind:        policyv1.SchemeGroupVersion.WithKind("Eviction"),
		OldVersions: []string{"v1beta1"},
		New:         func() runtime.Object { return &policyv1.Eviction{} },
		Verbs:       []string{"create"},
		Create: func(ctx context.Context, s apis.Storage, namespace, name string, body runtime.Object, dryRun bool) (runtime.Object, error) {
			options, err := evictionOptions(body.(*policyv1.Eviction), name, dryRun)
			if err != nil {
				return nil, err
			}
			e := evictor{s: s, namespace: namespace, name: name, options: options, dryRun: len(options.DryRun) > 0}
			if err := e.evict(ctx); err != nil {
				return nil, err
			}
			return &metav1.Status{Status: metav1.StatusSuccess, Code: 201}, nil
		},
	}
}

// evictionOptions returns how the pod of that name is to be deleted. The
// request and what it posts may both ask for a dry run.
func evictionOptions(eviction *policyv1.Eviction, name string, dryRun bool) (*metav1.DeleteOptions, error) {
	if eviction.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	options := &metav1.DeleteOptions{}
	if eviction.DeleteOptions != nil {
		options = eviction.DeleteOptions.DeepCopy()
	}
	if ptr.Deref(options.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		return nil, apierrors.NewInvalid(policyv1.SchemeGroupVersion.WithKind("Eviction").GroupKind(), name, field.ErrorList{
			field.Invalid(field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential"), true,
				"can not be set for pod eviction, try after removing the option"),
		})
	}
	if !dryRun {
		return options, nil
	}
	all := []string{metav1.DryRunAll}
	if len(options.DryRun) > 0 && !slices.Equal(options.DryRun, all) {
		return nil, fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", all, options.DryRun)
	}
	options.DryRun = all
	return options, nil
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

// evictAttempts is how often the deletion of a pod that no budget protects is
// decided anew because the pod changed meanwhile.
const evictAttempts = 20

func (e *evictor) evict(ctx context.Context) error {
	var err error
	for range evictAttempts {
		obj, notFound := e.s.Get(ctx, podResource(), e.namespace, e.name)
		if notFound != nil {
			return notFound
		}
		pod := obj.(*corev1.Pod)
		if needsBudget(pod) {
			return e.evictWithin(ctx, pod)
		}
		// A pod that is starting must not become ready before it is deleted.
		starting := !isFinished(pod) && pod.DeletionTimestamp == nil
		err = e.delete(ctx, pod, starting && !e.pinned())
		if !apierrors.IsConflict(err) || e.pinned() || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// needsBudget tells whether the end of the pod would be a disruption. It is
// none if the pod does not run yet, or not any more, or has to go already.
func needsBudget(pod *corev1.Pod) bool {
	return !isFinished(pod) && pod.Status.Phase != corev1.PodPending && pod.DeletionTimestamp == nil
}

// pinned tells whether the client only means one version of the pod.
func (e *evictor) pinned() bool {
	return e.options.Preconditions != nil && e.options.Preconditions.ResourceVersion != nil
}

// evictWithin evicts a running pod if its budget, should it have one, allows it.
func (e *evictor) evictWithin(ctx context.Context, pod *corev1.Pod) error {
	budget, err := e.budget(ctx, pod)
	if err != nil {
		return err
	}
	if budget == nil {
		return e.delete(ctx, pod, false)
	}
	// A pod that is not ready does not count as healthy: its end costs nothing.
	if !hasCondition(pod, corev1.PodReady) {
		always := budget.Spec.UnhealthyPodEvictionPolicy != nil && *budget.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow
		enough := budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy && budget.Status.DesiredHealthy > 0
		if always || enough {
			err := e.delete(ctx, pod, true)
			if apierrors.IsConflict(err) && !e.pinned() {
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
	return e.delete(ctx, pod, false)
}

// budget finds the one budget that covers the pod, or nil.
func (e *evictor) budget(ctx context.Context, pod *corev1.Pod) (found *policyv1.PodDisruptionBudget, err error) {
	several := false
	err = e.s.List(ctx, budgetResource(), e.namespace, func(obj apis.Object) bool {
		b := obj.(*policyv1.PodDisruptionBudget)
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		// An invalid selector selects nothing.
		if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
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
		return tooMany(b.Name, 0, spent(b))
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

// spent says why a budget allows no disruption.
func spent(b *policyv1.PodDisruptionBudget) string {
	s := &b.Status
	c := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
	told := c != nil && c.Status == metav1.ConditionFalse && c.Message != ""
	text := fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
	switch {
	case told && c.Reason == policyv1.SyncFailedReason:
		// What is counted is not to be trusted then.
		return fmt.Sprintf("%s because it failed sync: %s", text, c.Message)
	case s.CurrentHealthy <= s.DesiredHealthy:
		return fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, s.DesiredHealthy, s.CurrentHealthy)
	case told:
		return fmt.Sprintf("%s (%s): %s", text, c.Reason, c.Message)
	}
	return text
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

// delete writes into the pod why it goes, and deletes it; with unchanged set
// only if it still is as it was then.
func (e *evictor) delete(ctx context.Context, then *corev1.Pod, unchanged bool) error {
	options := e.options.DeepCopy()
	if unchanged {
		requireVersion(options, then.ResourceVersion)
	}
	if !e.dryRun {
		marked, err := e.s.Update(ctx, podResource(), e.namespace, e.name, false, func(obj apis.Object) error {
			pod := obj.(*corev1.Pod)
			if err := e.precondition(pod, options.Preconditions); err != nil {
				return err
			}
			setPodCondition(&pod.Status, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI",
				Message: "Eviction API: evicting", LastTransitionTime: metav1.Now(), ObservedGeneration: pod.Generation,
			})
			return nil
		})
		if err != nil {
			return err
		}
		if unchanged || e.pinned() {
			requireVersion(options, marked.GetResourceVersion())
		}
	}
	return e.s.Delete(ctx, podResource(), e.namespace, e.name, options)
}

func requireVersion(o *metav1.DeleteOptions, version string) {
	if o.Preconditions == nil {
		o.Preconditions = &metav1.Preconditions{}
	}
	o.Preconditions.ResourceVersion = &version
}

// precondition checks the pod by p and by what the client asked for, which may
// be another version.
func (e *evictor) precondition(pod *corev1.Pod, p *metav1.Preconditions) error {
	conflict := func(format string, args ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Resource: "Pod"}, pod.Name, fmt.Errorf(format, args...))
	}
	for _, p := range []*metav1.Preconditions{e.options.Preconditions, p} {
		if p == nil {
			continue
		}
		if p.UID != nil && *p.UID != "" && *p.UID != pod.UID {
			return conflict("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, pod.UID)
		}
		if p.ResourceVersion != nil && *p.ResourceVersion != "" && *p.ResourceVersion != pod.ResourceVersion {
			return conflict("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, pod.ResourceVersion)
		}
	}
	return nil
}
