// Package tolerationrestriction gives pods the tolerations that their namespace
// says, and refuses those that it does not allow (PodTolerationRestriction).
package tolerationrestriction

import (
	"context"
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/match"
)

// Annotations of namespaces, each a list of tolerations in JSON.
const (
	defaultAnnotation = "scheduler.alpha.kubernetes.io/defaultTolerations"
	allowedAnnotation = "scheduler.alpha.kubernetes.io/tolerationsWhitelist"
)

// Configuration is upstream's podtolerationrestriction.admission.k8s.io/v1alpha1
// Configuration: what holds where a namespace has no annotation.
type Configuration struct {
	APIVersion string              `json:"apiVersion,omitempty"`
	Kind       string              `json:"kind,omitempty"`
	Default    []corev1.Toleration `json:"default,omitempty"`
	Whitelist  []corev1.Toleration `json:"whitelist,omitempty"`
}

// Plugin implements admission.Mutator and admission.Validator.
type Plugin struct {
	Namespaces match.Namespaces
	Configuration
	// BestEffort tells pods that ask for nothing.
	BestEffort func(*corev1.Pod) bool
}

func concerns(a *admission.Attributes) bool {
	return a.Is("", "pods", "") && (a.Operation == admission.Create || a.Operation == admission.Update)
}

// Mutate implements admission.Mutator.
func (p *Plugin) Mutate(ctx context.Context, a *admission.Attributes) error {
	if !concerns(a) {
		return nil
	}
	pod := a.Object.(*corev1.Pod)
	var more []corev1.Toleration
	if a.Operation == admission.Create {
		own, err := p.annotated(ctx, a, defaultAnnotation)
		if err != nil {
			return err
		}
		if own == nil {
			own = p.Default
		}
		more = slices.Clone(own)
	}
	if !p.BestEffort(pod) {
		// Nodes that are short of memory only keep those away that ask for none.
		more = append(more, corev1.Toleration{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
	if len(more) > 0 {
		pod.Spec.Tolerations = merge(append(slices.Clone(pod.Spec.Tolerations), more...))
	}
	return nil
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if !concerns(a) {
		return nil
	}
	pod := a.Object.(*corev1.Pod)
	if len(pod.Spec.Tolerations) == 0 {
		return nil
	}
	allowed, err := p.annotated(ctx, a, allowedAnnotation)
	if err != nil {
		return err
	}
	whose := "namespace"
	if allowed == nil {
		allowed, whose = p.Whitelist, "cluster"
	}
	if len(allowed) == 0 {
		return nil
	}
	for i := range pod.Spec.Tolerations {
		if !slices.ContainsFunc(allowed, func(t corev1.Toleration) bool { return covers(&t, &pod.Spec.Tolerations[i]) }) {
			return a.Forbidden("pod tolerations (possibly merged with namespace default tolerations) conflict with its %s whitelist", whose)
		}
	}
	return nil
}

// annotated returns the tolerations in an annotation of the namespace; nil if
// it has none.
func (p *Plugin) annotated(ctx context.Context, a *admission.Attributes, annotation string) ([]corev1.Toleration, error) {
	namespace, err := p.Namespaces(ctx, a.Namespace)
	if err != nil {
		if !apierrors.IsNotFound(err) {
			err = apierrors.NewInternalError(err)
		}
		return nil, err
	}
	text, ok := namespace.Annotations[annotation]
	if !ok {
		return nil, nil
	}
	list := []corev1.Toleration{}
	if text == "" {
		return list, nil
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, a.Forbidden("annotation %s of namespace %s: %w", annotation, a.Namespace, err)
	}
	return list, nil
}

// merge leaves out tolerations that others cover; of equal ones the first
// stays.
func merge(all []corev1.Toleration) []corev1.Toleration {
	var kept []corev1.Toleration
	for i := range all {
		t := &all[i]
		covered := slices.ContainsFunc(kept, func(k corev1.Toleration) bool { return covers(&k, t) }) ||
			slices.ContainsFunc(all[i+1:], func(later corev1.Toleration) bool {
				return covers(&later, t) && !equality.Semantic.DeepEqual(&later, t)
			})
		if !covered {
			kept = append(kept, *t)
		}
	}
	return kept
}

// covers reports whether everything that t tolerates w tolerates too.
func covers(w, t *corev1.Toleration) bool {
	switch {
	case equality.Semantic.DeepEqual(w, t):
		return true
	case w.Key != t.Key && (w.Key != "" || w.Operator != corev1.TolerationOpExists):
		return false
	case w.Effect != t.Effect && w.Effect != "":
		return false
	case t.Effect == corev1.TaintEffectNoExecute && w.TolerationSeconds != nil &&
		(t.TolerationSeconds == nil || *t.TolerationSeconds > *w.TolerationSeconds):
		return false
	}
	switch w.Operator {
	case corev1.TolerationOpExists:
		return true
	case corev1.TolerationOpEqual, "":
		return (t.Operator == corev1.TolerationOpEqual || t.Operator == "") && t.Value == w.Value
	}
	return false
}
