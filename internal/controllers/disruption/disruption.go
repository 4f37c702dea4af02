// Package disruption counts what PodDisruptionBudgets allow, for the eviction
// API to go by, and takes back the mark of pods that were to be disrupted and
// are still there.
package disruption

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apps/poddisruptionbudget"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/pods"
)

const (
	workers = 2
	// deletionTimeout is how long an evicted pod may take to begin to end.
	deletionTimeout = 2 * time.Minute
)

type reconciler struct {
	controller.Deps
	events record.EventRecorder
}

// New makes the controller of PodDisruptionBudgets.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, events: d.Recorder("controllermanager")}
	return controller.New(d, "disruption", workers, r.reconcile,
		controller.WatchSelf(d, &policyv1.PodDisruptionBudget{}),
		controller.Watch(d, &corev1.Pod{}, r.podChanged))
}

// podChanged wakes the budgets that count the pod.
func (r *reconciler) podChanged(q controller.Queue, old, pod *corev1.Pod) {
	if old != nil && pod != nil && pods.Ready(old) == pods.Ready(pod) && (old.DeletionTimestamp == nil) == (pod.DeletionTimestamp == nil) &&
		apiequality.Semantic.DeepEqual(old.Labels, pod.Labels) && apiequality.Semantic.DeepEqual(old.OwnerReferences, pod.OwnerReferences) {
		return
	}
	some := pod
	if some == nil {
		some = old
	}
	var list policyv1.PodDisruptionBudgetList
	if err := r.Cache.List(context.Background(), &list, crclient.InNamespace(some.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing the disruption budgets of a pod", "pod", controller.Key(some), "error", err)
		return
	}
	now := 0
	for i := range list.Items {
		b := &list.Items[i]
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil {
			continue
		}
		is := pod != nil && selector.Matches(labels.Set(pod.Labels))
		if is {
			now++
		}
		if is || old != nil && selector.Matches(labels.Set(old.Labels)) {
			controller.Add(q, b.Namespace, b.Name)
		}
		if now == 2 {
			r.events.Eventf(pod, corev1.EventTypeWarning, "MultiplePodDisruptionBudgets", "Pod %q/%q matches multiple PodDisruptionBudgets.  Chose %q arbitrarily.", pod.Namespace, pod.Name, b.Name)
		}
	}
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var shared policyv1.PodDisruptionBudget
	if err := r.Cache.Get(ctx, key, &shared, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	b := shared.DeepCopy()
	recheck, err := r.count(ctx, b)
	if err != nil {
		if apierrors.IsConflict(err) {
			return reconcile.Result{}, err
		}
		// Nothing may be disrupted while it is not known how much may.
		b = shared.DeepCopy()
		b.Status.DisruptionsAllowed = 0
		meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
			Message: err.Error(), ObservedGeneration: b.Status.ObservedGeneration,
		})
	}
	if !apiequality.Semantic.DeepEqual(shared.Status, b.Status) {
		if err := r.Client.Status().Update(ctx, b); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	return reconcile.Result{RequeueAfter: recheck}, nil
}

// count writes into the status what the budget's pods say. It returns when to
// look again at pods that should be gone by then, or 0.
func (r *reconciler) count(ctx context.Context, b *policyv1.PodDisruptionBudget) (time.Duration, error) {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		r.events.Eventf(b, corev1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return 0, err
	}
	var list corev1.PodList
	if err := r.Cache.List(ctx, &list, crclient.InNamespace(b.Namespace), crclient.MatchingLabelsSelector{Selector: selector}, crclient.UnsafeDisableDeepCopy); err != nil {
		r.events.Eventf(b, corev1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return 0, err
	}
	if len(list.Items) == 0 {
		r.events.Event(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected, desired, unmanaged, err := r.expected(ctx, b, list.Items)
	if err != nil {
		r.events.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return 0, err
	}
	if unmanaged {
		r.events.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", b.Spec.Selector)
	}
	now := r.Clock.Now()
	disrupted, recheck := r.disrupted(b, list.Items, now)
	var healthy int32
	for i := range list.Items {
		p := &list.Items[i]
		if _, going := disrupted[p.Name]; !going && p.DeletionTimestamp == nil && pods.Ready(p) {
			healthy++
		}
	}
	allowed := max(0, healthy-desired)
	if expected <= 0 {
		allowed = 0
	}
	b.Status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: b.Generation, Conditions: b.Status.Conditions, DisruptedPods: disrupted,
		CurrentHealthy: healthy, DesiredHealthy: desired, ExpectedPods: expected, DisruptionsAllowed: allowed,
	}
	poddisruptionbudget.UpdateDisruptionAllowedCondition(b)
	return recheck, nil
}

// disrupted are the pods whose eviction was allowed, and which have not begun
// to end; it says when the first of them is overdue.
func (r *reconciler) disrupted(b *policyv1.PodDisruptionBudget, all []corev1.Pod, now time.Time) (map[string]metav1.Time, time.Duration) {
	still := map[string]metav1.Time{}
	var recheck time.Duration
	for i := range all {
		since, ok := b.Status.DisruptedPods[all[i].Name]
		if !ok || all[i].DeletionTimestamp != nil {
			continue
		}
		left := since.Add(deletionTimeout).Sub(now)
		if left <= 0 {
			r.events.Eventf(&all[i], corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name)
			continue
		}
		still[all[i].Name] = since
		if recheck == 0 || left < recheck {
			recheck = left
		}
	}
	return still, recheck
}

// expected returns how many pods there should be, and how many of them must
// stay healthy.
func (r *reconciler) expected(ctx context.Context, b *policyv1.PodDisruptionBudget, all []corev1.Pod) (expected, desired int32, unmanaged bool, err error) {
	limit := b.Spec.MaxUnavailable
	if limit == nil {
		limit = b.Spec.MinAvailable
	}
	switch {
	case limit == nil:
		return 0, 0, false, nil
	case b.Spec.MaxUnavailable == nil && limit.Type == intstr.Int:
		return int32(len(all)), limit.IntVal, false, nil
	}
	if expected, unmanaged, err = r.scales(ctx, all); err != nil {
		return 0, 0, false, err
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(limit, int(expected), true)
	if err != nil {
		return 0, 0, false, err
	}
	if b.Spec.MaxUnavailable != nil {
		return expected, max(0, expected-int32(n)), unmanaged, nil
	}
	return expected, int32(n), unmanaged, nil
}

// scales sums up what the pods' controllers ask for.
func (r *reconciler) scales(ctx context.Context, all []corev1.Pod) (sum int32, unmanaged bool, err error) {
	known := map[types.UID]bool{}
	for i := range all {
		ref := metav1.GetControllerOfNoCopy(&all[i])
		switch {
		case ref == nil:
			unmanaged = true
			continue
		case known[ref.UID]:
			continue
		}
		known[ref.UID] = true
		of, n, err := r.scale(ctx, all[i].Namespace, ref)
		if err != nil {
			return 0, false, err
		}
		switch {
		case of == "":
			return 0, false, fmt.Errorf("found no controllers for pod %q", all[i].Name)
		case of == ref.UID, !known[of]:
			sum += n
		}
		known[of] = true
	}
	return sum, unmanaged, nil
}
