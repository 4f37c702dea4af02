package core

import (
	"fmt"
	"math"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis/unversioned"
)

// contentOfUpdate checks a changed pod as a new one is, but for what was
// wrong with the old one too.
func contentOfUpdate(pod, old *corev1.Pod) field.ErrorList {
	return tolerate(validatePodContent(pod, &old.Spec), func() field.ErrorList { return validatePodContent(old, &old.Spec) })
}

// validatePodUpdate: a pod is what it is. Images, a deadline that comes
// nearer, further tolerations and, while it waits at a scheduling gate, less
// gates and more node constraints are all that can change.
func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	p := problems(contentOfUpdate(pod, old))
	at := field.NewPath("spec")
	p.fixedAnnotations(pod.Annotations, old.Annotations)
	if !p.sameContainers(at.Child("containers"), pod.Spec.Containers, old.Spec.Containers) ||
		!p.sameContainers(at.Child("initContainers"), pod.Spec.InitContainers, old.Spec.InitContainers) ||
		!p.deadline(at.Child("activeDeadlineSeconds"), pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds) {
		return p.list()
	}
	p.moreTolerations(at.Child("tolerations"), pod.Spec.Tolerations, old.Spec.Tolerations)
	p.lessGates(at.Child("schedulingGates"), pod.Spec.SchedulingGates, old.Spec.SchedulingGates)
	if apiequality.Semantic.DeepEqual(&pod.Spec, &old.Spec) {
		return p.list()
	}
	// The rest must be equal once all that may change is as it was.
	rest := pod.Spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	rest.SchedulingGates = old.Spec.SchedulingGates
	rest.Tolerations = old.Spec.Tolerations
	if was, now := old.Spec.TerminationGracePeriodSeconds, rest.TerminationGracePeriodSeconds; was != nil && *was < 0 && now != nil && *now == 1 {
		rest.TerminationGracePeriodSeconds = was
	}
	if len(old.Spec.SchedulingGates) > 0 {
		p.narrowed(at, rest, &old.Spec)
	}
	if !apiequality.Semantic.DeepEqual(rest, &old.Spec) {
		p.forbidden(at, fmt.Sprintf("pod updates may not change fields other than %s\n%v", strings.Join([]string{
			"`spec.containers[*].image`",
			"`spec.initContainers[*].image`",
			"`spec.activeDeadlineSeconds`",
			"`spec.tolerations` (only additions to existing tolerations)",
			"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
		}, ","), unversioned.Diff(old.Spec, *rest)))
	}
	return p.list()
}

// fixedAnnotations checks those that the kubelet relies on.
func (p *problems) fixedAnnotations(now, old map[string]string) {
	at := field.NewPath("metadata", "annotations")
	fixed := func(key string) string {
		switch {
		case strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			return "AppArmor annotations"
		case key == corev1.MirrorPodAnnotationKey:
			return "mirror pod annotation"
		}
		return ""
	}
	for key, value := range old {
		if newValue, kept := now[key]; (!kept || newValue != value) && fixed(key) != "" {
			p.forbidden(at.Key(key), "may not remove or update "+fixed(key))
		}
	}
	for key := range now {
		if _, known := old[key]; !known && fixed(key) != "" {
			p.forbidden(at.Key(key), "may not add "+fixed(key))
		}
	}
}

func (p *problems) sameContainers(at *field.Path, now, old []corev1.Container) bool {
	if len(now) != len(old) {
		p.forbidden(at, "pod updates may not add or remove containers")
		return false
	}
	// Again, like upstream.
	for i := range now {
		p.image(at.Index(i).Child("image"), now[i].Image, true)
	}
	return true
}

// deadline may be set, and come nearer.
func (p *problems) deadline(at *field.Path, now, old *int64) bool {
	switch {
	case now == nil && old != nil:
		p.invalid(at, now, "must not update from a positive integer to nil value")
	case now == nil:
	case *now < 0 || *now > math.MaxInt32:
		p.invalid(at, *now, validation.InclusiveRangeError(0, math.MaxInt32))
		return false
	case old != nil && *old < *now:
		p.invalid(at, *now, "must be less than or equal to previous value")
		return false
	}
	return true
}

func (p *problems) moreTolerations(at *field.Path, now, old []corev1.Toleration) {
	for _, was := range old {
		found := false
		for _, is := range now {
			is.TolerationSeconds = was.TolerationSeconds
			found = found || reflect.DeepEqual(is, was)
		}
		if !found {
			p.forbidden(at, "existing toleration can not be modified except its tolerationSeconds")
			return
		}
	}
	// Again, like upstream.
	p.add(ValidateTolerations(now, at))
}

func (p *problems) lessGates(at *field.Path, now, old []corev1.PodSchedulingGate) {
	for i, gate := range now {
		if !contains(old, gate) {
			p.forbidden(at.Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", gate.Name))
		}
	}
}

// narrowed checks that a gated pod fits on no more nodes than before, and
// puts the old node constraints back into rest.
func (p *problems) narrowed(at *field.Path, rest, old *corev1.PodSpec) {
	for key, value := range old.NodeSelector {
		if now, kept := rest.NodeSelector[key]; !kept || now != value {
			p.invalid(at.Child("nodeSelector"), rest.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)")
			break
		}
	}
	rest.NodeSelector = old.NodeSelector

	var now, was *corev1.NodeAffinity
	if rest.Affinity != nil {
		now = rest.Affinity.NodeAffinity
	}
	if old.Affinity != nil {
		was = old.Affinity.NodeAffinity
	}
	p.narrowedAffinity(at.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"), now, was)
	switch {
	case rest.Affinity == nil && was != nil:
		rest.Affinity = &corev1.Affinity{NodeAffinity: was}
	case rest.Affinity != nil:
		rest.Affinity.NodeAffinity = was
		if old.Affinity == nil && *rest.Affinity == (corev1.Affinity{}) {
			rest.Affinity = nil
		}
	}
}

func (p *problems) narrowedAffinity(at *field.Path, now, old *corev1.NodeAffinity) {
	if old == nil || old.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return
	}
	was := old.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var is []corev1.NodeSelectorTerm
	if now != nil && now.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		is = now.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	if len(was) > 0 && len(was) != len(is) {
		p.invalid(at, is, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
		return
	}
	extends := func(is, was []corev1.NodeSelectorRequirement) bool {
		return len(is) >= len(was) && apiequality.Semantic.DeepEqual(is[:len(was)], was)
	}
	for i := range was {
		// A term without requirements matches no node: there is nothing to add.
		nothing := len(was[i].MatchExpressions)+len(was[i].MatchFields) == 0
		grown := len(is[i].MatchExpressions)+len(is[i].MatchFields) > 0
		if nothing && grown || !extends(is[i].MatchExpressions, was[i].MatchExpressions) || !extends(is[i].MatchFields, was[i].MatchFields) {
			p.invalid(at.Index(i), is[i], "only additions are allowed (no mutations or deletions)")
		}
	}
}

func validateEphemeralContainersUpdate(pod, old *corev1.Pod) field.ErrorList {
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	p := problems(contentOfUpdate(pod, old))
	at := field.NewPath("spec", "ephemeralContainers")
	now := map[string]*corev1.EphemeralContainer{}
	for i := range pod.Spec.EphemeralContainers {
		now[pod.Spec.EphemeralContainers[i].Name] = &pod.Spec.EphemeralContainers[i]
	}
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		if is := now[was.Name]; is == nil {
			p.forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name))
		} else if !apiequality.Semantic.DeepEqual(is, was) {
			p.forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, unversioned.Diff(*was, *is)))
		}
	}
	return p.list()
}
