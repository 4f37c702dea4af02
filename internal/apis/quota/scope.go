package quota

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
)

// InScope reports whether the quota's scopes, if it has any, all hold for the
// object.
func InScope(quota *corev1.ResourceQuota, obj runtime.Object) bool {
	needs := Scopes(quota)
	for i := range needs {
		if !Holds(&needs[i], obj) {
			return false
		}
	}
	return true
}

// Scopes returns the quota's scopes.
func Scopes(quota *corev1.ResourceQuota) (needs []corev1.ScopedResourceSelectorRequirement) {
	for _, scope := range quota.Spec.Scopes {
		needs = append(needs, corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists})
	}
	if quota.Spec.ScopeSelector != nil {
		needs = append(needs, quota.Spec.ScopeSelector.MatchExpressions...)
	}
	return needs
}

// Holds reports whether the object is in the scope.
func Holds(need *corev1.ScopedResourceSelectorRequirement, obj runtime.Object) bool {
	switch o := obj.(type) {
	case *corev1.Pod:
		switch need.ScopeName {
		case corev1.ResourceQuotaScopeTerminating:
			return terminating(o)
		case corev1.ResourceQuotaScopeNotTerminating:
			return !terminating(o)
		case corev1.ResourceQuotaScopeBestEffort:
			return BestEffort(o)
		case corev1.ResourceQuotaScopeNotBestEffort:
			return !BestEffort(o)
		case corev1.ResourceQuotaScopePriorityClass:
			return selects(need, o.Spec.PriorityClassName)
		case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
			return crossNamespace(o)
		}
	case *corev1.PersistentVolumeClaim:
		if need.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass {
			return slices.ContainsFunc(attributesClasses(o), func(class string) bool { return selects(need, class) })
		}
	}
	return false
}

// attributesClasses are the classes that a claim has, wants, and is being given:
// each counts until the change is over. It is one without a name if there is
// none.
func attributesClasses(claim *corev1.PersistentVolumeClaim) []string {
	names := []string{ptr.Deref(claim.Spec.VolumeAttributesClassName, ""), ptr.Deref(claim.Status.CurrentVolumeAttributesClassName, "")}
	if m := claim.Status.ModifyVolumeStatus; m != nil {
		names = append(names, m.TargetVolumeAttributesClassName)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 1 && names[0] == "" {
		names = names[1:]
	}
	return names
}

// Rescoped reports whether an update may have moved the object to another scope.
func Rescoped(before, now runtime.Object) bool {
	switch o := now.(type) {
	case *corev1.Pod:
		return terminating(before.(*corev1.Pod)) != terminating(o)
	case *corev1.PersistentVolumeClaim:
		return !slices.Equal(attributesClasses(before.(*corev1.PersistentVolumeClaim)), attributesClasses(o))
	}
	return false
}

func terminating(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

func selects(need *corev1.ScopedResourceSelectorRequirement, value string) bool {
	switch need.Operator {
	case corev1.ScopeSelectorOpExists:
		return value != ""
	case corev1.ScopeSelectorOpDoesNotExist:
		return value == ""
	case corev1.ScopeSelectorOpIn:
		return slices.Contains(need.Values, value)
	case corev1.ScopeSelectorOpNotIn:
		return !slices.Contains(need.Values, value)
	}
	return false
}

// BestEffort reports whether no container asks for CPU or memory.
func BestEffort(pod *corev1.Pod) bool {
	o := resourcehelper.PodResourcesOptions{}
	for _, list := range []corev1.ResourceList{resourcehelper.PodRequests(pod, o), resourcehelper.PodLimits(pod, o)} {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if q := list[name]; q.Sign() > 0 {
				return false
			}
		}
	}
	return true
}

func crossNamespace(pod *corev1.Pod) bool {
	if pod.Spec.Affinity == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	if a := pod.Spec.Affinity.PodAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			terms = append(terms, a.PreferredDuringSchedulingIgnoredDuringExecution[i].PodAffinityTerm)
		}
	}
	if a := pod.Spec.Affinity.PodAntiAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			terms = append(terms, a.PreferredDuringSchedulingIgnoredDuringExecution[i].PodAffinityTerm)
		}
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool {
		return len(t.Namespaces) > 0 || t.NamespaceSelector != nil
	})
}
