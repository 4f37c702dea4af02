// Package priority resolves the priority classes of pods.
package priority

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Mutator and admission.Validator.
type Plugin struct{ Cache, Live client.Reader }

// Mutate implements admission.Mutator.
func (p *Plugin) Mutate(ctx context.Context, a *admission.Attributes) error {
	if !a.Is("", "pods", "") {
		return nil
	}
	switch a.Operation {
	case admission.Create:
		return p.resolve(ctx, a, a.Object.(*corev1.Pod))
	case admission.Update:
		// Clients that do not know the fields leave them out.
		pod, old := a.Object.(*corev1.Pod), a.Old.(*corev1.Pod)
		if pod.Spec.Priority == nil {
			pod.Spec.Priority = old.Spec.Priority
		}
		if pod.Spec.PreemptionPolicy == nil {
			pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
		}
	}
	return nil
}

func (p *Plugin) resolve(ctx context.Context, a *admission.Attributes, pod *corev1.Pod) error {
	class := &schedulingv1.PriorityClass{PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority)}
	if name := pod.Spec.PriorityClassName; name != "" {
		err := p.Cache.Get(ctx, client.ObjectKey{Name: name}, class, client.UnsafeDisableDeepCopy)
		if apierrors.IsNotFound(err) {
			err = p.Live.Get(ctx, client.ObjectKey{Name: name}, class)
		}
		if apierrors.IsNotFound(err) {
			return a.Forbidden("no PriorityClass with name %v was found", name)
		}
		if err != nil {
			return err
		}
	} else {
		fallback, err := p.globalDefault(ctx)
		if err != nil {
			return err
		}
		if fallback != nil {
			class = fallback
			pod.Spec.PriorityClassName = class.Name
		}
	}
	return apply(a, pod, class)
}

func apply(a *admission.Attributes, pod *corev1.Pod, class *schedulingv1.PriorityClass) error {
	if pod.Spec.Priority != nil && *pod.Spec.Priority != class.Value {
		return a.Forbidden("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, class.Value)
	}
	pod.Spec.Priority = ptr.To(class.Value)
	policy := ptr.Deref(class.PreemptionPolicy, corev1.PreemptLowerPriority)
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != policy {
		return a.Forbidden("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, policy)
	}
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

// globalDefault returns the class of pods that name none, or nil. If several
// claim to be it, which races allow, the lowest is.
func (p *Plugin) globalDefault(ctx context.Context) (*schedulingv1.PriorityClass, error) {
	var classes schedulingv1.PriorityClassList
	if err := p.Cache.List(ctx, &classes, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var lowest *schedulingv1.PriorityClass
	for i := range classes.Items {
		if c := &classes.Items[i]; c.GlobalDefault && (lowest == nil || c.Value < lowest.Value) {
			lowest = c
		}
	}
	return lowest, nil
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if !a.Is("scheduling.k8s.io", "priorityclasses", "") || a.Operation != admission.Create && a.Operation != admission.Update {
		return nil
	}
	class := a.Object.(*schedulingv1.PriorityClass)
	if !class.GlobalDefault {
		return nil
	}
	existing, err := p.globalDefault(ctx)
	if err != nil {
		return err
	}
	if existing != nil && existing.Name != class.Name {
		return a.Forbidden("PriorityClass %v is already marked as default. Only one default can exist", existing.Name)
	}
	return nil
}
