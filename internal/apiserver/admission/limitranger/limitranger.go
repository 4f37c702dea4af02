// Package limitranger holds pods and claims to the LimitRanges of their
// namespace: defaults for what they leave open, bounds for what they ask.
package limitranger

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// annotation tells which defaults were set.
const annotation = "kubernetes.io/limit-ranger"

// Plugin implements admission.Mutator and admission.Validator.
type Plugin struct{ Cache client.Reader }

// Mutate implements admission.Mutator.
func (p *Plugin) Mutate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Create || !a.Is("", "pods", "") {
		return nil
	}
	ranges, err := p.ranges(ctx, a.Namespace)
	if err != nil {
		return err
	}
	for i := range ranges {
		setDefaults(a.Object.(*corev1.Pod), &ranges[i])
	}
	return nil
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	pod := a.Is("", "pods", "") && a.Operation == admission.Create || a.Is("", "pods", "resize") && a.Operation == admission.Update
	claim := a.Is("", "persistentvolumeclaims", "") && (a.Operation == admission.Create || a.Operation == admission.Update)
	if !pod && !claim {
		return nil
	}
	ranges, err := p.ranges(ctx, a.Namespace)
	if err != nil {
		return err
	}
	var errs []error
	for i := range ranges {
		if pod {
			errs = append(errs, checkPod(a.Object.(*corev1.Pod), &ranges[i])...)
		} else {
			errs = append(errs, checkClaim(a.Object.(*corev1.PersistentVolumeClaim), &ranges[i])...)
		}
	}
	if len(errs) > 0 {
		return a.Forbidden("%w", utilerrors.NewAggregate(errs))
	}
	return nil
}

func (p *Plugin) ranges(ctx context.Context, namespace string) ([]corev1.LimitRange, error) {
	var list corev1.LimitRangeList
	err := p.Cache.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy)
	return list.Items, err
}

// setDefaults fills the requests and limits that containers leave open, and
// says so in an annotation.
func setDefaults(pod *corev1.Pod, r *corev1.LimitRange) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for i := range r.Spec.Limits {
		if item := &r.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
			for name, q := range item.DefaultRequest {
				requests[name] = q.DeepCopy()
			}
			for name, q := range item.Default {
				limits[name] = q.DeepCopy()
			}
		}
	}
	var said []string
	fill := func(kind string, containers []corev1.Container) {
		for i := range containers {
			c := &containers[i]
			for _, part := range []struct {
				what string
				into *corev1.ResourceList
				from corev1.ResourceList
			}{{"request", &c.Resources.Requests, requests}, {"limit", &c.Resources.Limits, limits}} {
				if set := merge(part.into, part.from); len(set) > 0 {
					said = append(said, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), part.what, kind, c.Name))
				}
			}
		}
	}
	fill("container", pod.Spec.Containers)
	fill("init container", pod.Spec.InitContainers)
	if len(said) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[annotation] = "LimitRanger plugin set: " + strings.Join(said, "; ")
	}
}

// merge sets what is not set, and returns its names in order.
func merge(into *corev1.ResourceList, from corev1.ResourceList) (set []string) {
	for name, q := range from {
		if _, ok := (*into)[name]; ok {
			continue
		}
		if *into == nil {
			*into = corev1.ResourceList{}
		}
		(*into)[name] = q
		set = append(set, string(name))
	}
	slices.Sort(set)
	return set
}
