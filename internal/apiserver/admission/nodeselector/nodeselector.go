// Package nodeselector keeps the pods of a namespace on the nodes that its
// annotation, or the configuration, selects (PodNodeSelector).
package nodeselector

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/match"
)

const (
	// annotation of a namespace holds the labels that its pods' nodes have.
	annotation = "scheduler.alpha.kubernetes.io/node-selector"
	// fallback is the key of the labels for namespaces without annotation.
	fallback = "clusterDefaultNodeSelector"
)

// Configuration is upstream's. By namespace it holds the only labels that pods
// may select nodes by.
type Configuration struct {
	Selectors map[string]string `json:"podNodeSelectorPluginConfig"`
}

// Plugin implements admission.Mutator and admission.Validator.
type Plugin struct {
	namespaces match.Namespaces
	selectors  map[string]labels.Set
}

// New returns the plug-in.
func New(namespaces match.Namespaces, c Configuration) (*Plugin, error) {
	p := &Plugin{namespaces, map[string]labels.Set{}}
	for name, text := range c.Selectors {
		selector, err := labels.ConvertSelectorToLabelsMap(text)
		if err != nil {
			return nil, fmt.Errorf("podNodeSelectorPluginConfig[%s]: %w", name, err)
		}
		p.selectors[name] = selector
	}
	return p, nil
}

func (p *Plugin) concerns(a *admission.Attributes) bool {
	return a.Operation == admission.Create && a.Is("", "pods", "")
}

// Mutate implements admission.Mutator.
func (p *Plugin) Mutate(ctx context.Context, a *admission.Attributes) error {
	if !p.concerns(a) {
		return nil
	}
	pod := a.Object.(*corev1.Pod)
	selector, err := p.agreed(ctx, a, pod)
	if err == nil && len(selector) > 0 {
		pod.Spec.NodeSelector = labels.Merge(selector, pod.Spec.NodeSelector)
	}
	return err
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if !p.concerns(a) {
		return nil
	}
	pod := a.Object.(*corev1.Pod)
	if _, err := p.agreed(ctx, a, pod); err != nil {
		return err
	}
	allowed := p.selectors[a.Namespace]
	if len(allowed) == 0 {
		return nil
	}
	for name, value := range pod.Spec.NodeSelector {
		if have, ok := allowed[name]; !ok || have != value {
			return a.Forbidden("pod node label selector labels conflict with its namespace whitelist")
		}
	}
	return nil
}

// agreed returns the namespace's selector, if the pod does not contradict it.
func (p *Plugin) agreed(ctx context.Context, a *admission.Attributes, pod *corev1.Pod) (labels.Set, error) {
	namespace, err := p.namespaces(ctx, a.Namespace)
	if err != nil {
		if !apierrors.IsNotFound(err) {
			err = apierrors.NewInternalError(err)
		}
		return nil, err
	}
	selector := p.selectors[fallback]
	if text, ok := namespace.Annotations[annotation]; ok {
		if selector, err = labels.ConvertSelectorToLabelsMap(text); err != nil {
			return nil, a.Forbidden("annotation %s of namespace %s: %w", annotation, a.Namespace, err)
		}
	}
	if labels.Conflicts(selector, pod.Spec.NodeSelector) {
		return nil, a.Forbidden("pod node label selector conflicts with its namespace node label selector")
	}
	return selector, nil
}
