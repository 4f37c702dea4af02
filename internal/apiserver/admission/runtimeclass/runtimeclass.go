// Package runtimeclass gives pods what their runtime class costs, and where it
// may run (KEP-688).
package runtimeclass

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Mutator and admission.Validator.
type Plugin struct{ Cache, Live client.Reader }

// Mutate implements admission.Mutator.
func (p *Plugin) Mutate(ctx context.Context, a *admission.Attributes) error {
	pod, class, err := p.class(ctx, a)
	if class == nil {
		return err
	}
	if class.Overhead != nil {
		if len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(pod.Spec.Overhead, class.Overhead.PodFixed) {
			return a.Forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
		pod.Spec.Overhead = class.Overhead.DeepCopy().PodFixed
	}
	if class.Scheduling == nil {
		return nil
	}
	for key, value := range class.Scheduling.NodeSelector {
		if have, ok := pod.Spec.NodeSelector[key]; ok && have != value {
			return a.Forbidden("pod rejected: conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, have)
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = value
	}
	for _, t := range class.Scheduling.Tolerations {
		if !hasToleration(pod, &t) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
		}
	}
	return nil
}

func hasToleration(pod *corev1.Pod, t *corev1.Toleration) bool {
	for i := range pod.Spec.Tolerations {
		if equality.Semantic.DeepEqual(&pod.Spec.Tolerations[i], t) {
			return true
		}
	}
	return false
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	pod, class, err := p.class(ctx, a)
	switch {
	case pod == nil || err != nil:
		return err
	case class != nil && class.Overhead != nil:
		if !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return a.Forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
	case pod.Spec.Overhead != nil:
		return a.Forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	}
	return nil
}

// class returns the pod and its class, each nil where there is none.
func (p *Plugin) class(ctx context.Context, a *admission.Attributes) (*corev1.Pod, *nodev1.RuntimeClass, error) {
	if a.Operation != admission.Create || !a.Is("", "pods", "") {
		return nil, nil, nil
	}
	pod := a.Object.(*corev1.Pod)
	if pod.Spec.RuntimeClassName == nil {
		return pod, nil, nil
	}
	class, key := &nodev1.RuntimeClass{}, client.ObjectKey{Name: *pod.Spec.RuntimeClassName}
	err := p.Cache.Get(ctx, key, class, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		err = p.Live.Get(ctx, key, class)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil, a.Forbidden("pod rejected: RuntimeClass %q not found", key.Name)
	}
	if err != nil {
		return nil, nil, err
	}
	return pod, class, nil
}
