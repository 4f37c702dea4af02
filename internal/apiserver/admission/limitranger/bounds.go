package limitranger

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

func checkPod(pod *corev1.Pod, r *corev1.LimitRange) (errs []error) {
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for j := range containers {
					errs = append(errs, checkBounds(item, containers[j].Resources.Requests, containers[j].Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			o := resourcehelper.PodResourcesOptions{}
			errs = append(errs, checkBounds(item, resourcehelper.PodRequests(pod, o), resourcehelper.PodLimits(pod, o))...)
		}
	}
	return errs
}

func checkClaim(claim *corev1.PersistentVolumeClaim, r *corev1.LimitRange) (errs []error) {
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		for _, name := range names(item.Min) {
			errs = appendError(errs, checkMin(item, name, claim.Spec.Resources.Requests, nil))
		}
		for _, name := range names(item.Max) {
			bound, request := item.Max[name], claim.Spec.Resources.Requests[name]
			if request.Cmp(bound) > 0 {
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), request.String()))
			}
		}
	}
	return errs
}

func checkBounds(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) (errs []error) {
	for _, name := range names(item.Min) {
		errs = appendError(errs, checkMin(item, name, requests, limits))
	}
	for _, name := range names(item.Max) {
		errs = appendError(errs, checkMax(item, name, requests, limits))
	}
	for _, name := range names(item.MaxLimitRequestRatio) {
		errs = appendError(errs, checkRatio(item, name, requests, limits))
	}
	return errs
}

func appendError(errs []error, err error) []error {
	if err != nil {
		errs = append(errs, err)
	}
	return errs
}

func names(l corev1.ResourceList) []corev1.ResourceName {
	return slices.Sorted(maps.Keys(l))
}

func checkMin(item *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	bound := item.Min[name]
	text := fmt.Sprintf("minimum %s usage per %s is %s", name, item.Type, bound.String())
	request, ok := requests[name]
	switch {
	case !ok:
		return fmt.Errorf("%s.  No request is specified", text)
	case request.Cmp(bound) < 0:
		return fmt.Errorf("%s, but request is %s", text, request.String())
	}
	if limit, ok := limits[name]; ok && limit.Cmp(bound) < 0 {
		return fmt.Errorf("%s, but limit is %s", text, limit.String())
	}
	return nil
}

func checkMax(item *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	bound := item.Max[name]
	text := fmt.Sprintf("maximum %s usage per %s is %s", name, item.Type, bound.String())
	limit, ok := limits[name]
	switch {
	case !ok:
		return fmt.Errorf("%s.  No limit is specified", text)
	case limit.Cmp(bound) > 0:
		return fmt.Errorf("%s, but limit is %s", text, limit.String())
	}
	if request, ok := requests[name]; ok && request.Cmp(bound) > 0 {
		return fmt.Errorf("%s, but request is %s", text, request.String())
	}
	return nil
}

func checkRatio(item *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	bound := item.MaxLimitRequestRatio[name]
	text := fmt.Sprintf("%s max limit to request ratio per %s is %s", name, item.Type, bound.String())
	request, limit := requests[name], limits[name]
	switch {
	case request.IsZero():
		return fmt.Errorf("%s, but no request is specified or request is 0", text)
	case limit.IsZero():
		return fmt.Errorf("%s, but no limit is specified or limit is 0", text)
	}
	if ratio := value(limit) / value(request); ratio > value(bound) {
		return fmt.Errorf("%s, but provided ratio is %f", text, ratio)
	}
	return nil
}

func value(q resource.Quantity) float64 { return q.AsApproximateFloat64() }
