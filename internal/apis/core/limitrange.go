package core

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
)

func limitRanges() *apis.Resource {
	return apis.Of[*corev1.LimitRange]{
		Names:               apis.Names{Resource: "limitranges", Singular: "limitrange", Kind: "LimitRange", ShortNames: []string{"limits"}, Namespaced: true},
		Version:             "v1",
		New:                 func() *corev1.LimitRange { return &corev1.LimitRange{} },
		NewList:             func() runtime.Object { return &corev1.LimitRangeList{} },
		AllowCreateOnUpdate: true,
		MetadataOnUpdate:    []apis.MetadataCheck{apis.AsNew},
		Default:             defaultLimitRange,
		Validate:            validateLimitRange,
	}.Resource()
}

// defaultLimitRange lets what is said about containers imply what is not: the
// default limit from the maximum, the default request from that or from the
// minimum.
func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		for _, list := range []corev1.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
			roundUp(list)
		}
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		if item.Default == nil {
			item.Default = corev1.ResourceList{}
		}
		if item.DefaultRequest == nil {
			item.DefaultRequest = corev1.ResourceList{}
		}
		addMissing(item.Default, item.Max)
		addMissing(item.DefaultRequest, item.Default)
		addMissing(item.DefaultRequest, item.Min)
	}
}

// addMissing copies to into what only from has.
func addMissing(into, from corev1.ResourceList) {
	for name, q := range from {
		if _, set := into[name]; !set {
			into[name] = q.DeepCopy()
		}
	}
}

func validateLimitRange(_ context.Context, l *corev1.LimitRange) field.ErrorList {
	var p problems
	seen := sets.New[corev1.LimitType]()
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		if messages := validation.IsQualifiedName(string(item.Type)); len(messages) > 0 {
			p.invalids(at.Child("type"), item.Type, messages)
		} else if !strings.Contains(string(item.Type), "/") && !contains([]corev1.LimitType{
			corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim}, item.Type) {
			p.invalid(at.Child("type"), item.Type, "must be a standard limit type or fully qualified")
		}
		if seen.Has(item.Type) {
			p.duplicate(at.Child("type"), item.Type)
		}
		seen.Insert(item.Type)
		p.limitRangeItem(at, item)
	}
	return p.list()
}

func (p *problems) limitRangeItem(at *field.Path, item *corev1.LimitRangeItem) {
	names := sets.New[corev1.ResourceName]()
	lists := []struct {
		name string
		list corev1.ResourceList
	}{
		{"max", item.Max}, {"min", item.Min}, {"default", item.Default},
		{"defaultRequest", item.DefaultRequest}, {"maxLimitRequestRatio", item.MaxLimitRequestRatio},
	}
	for _, l := range lists {
		if item.Type == corev1.LimitTypePod && strings.HasPrefix(l.name, "default") {
			if len(l.list) > 0 {
				p.forbidden(at.Child(l.name), "may not be specified when `type` is 'Pod'")
			}
			continue
		}
		for _, name := range sortedNames(l.list) {
			at := at.Child(l.name).Key(string(name))
			if item.Type == corev1.LimitTypePod || item.Type == corev1.LimitTypeContainer {
				p.containerResourceName(at, name)
			} else {
				p.resourceName(at, name)
			}
			names.Insert(name)
		}
	}
	if item.Type == corev1.LimitTypePersistentVolumeClaim {
		_, min := item.Min[corev1.ResourceStorage]
		_, max := item.Max[corev1.ResourceStorage]
		if !min && !max {
			p.missing(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided")
		}
	}
	for _, name := range sets.List(names) {
		p.limitRangeResource(at, item, name)
	}
}

// limitRangeResource checks that min <= default request <= default <= max.
func (p *problems) limitRangeResource(at *field.Path, item *corev1.LimitRangeItem, name corev1.ResourceName) {
	min, hasMin := item.Min[name]
	max, hasMax := item.Max[name]
	limit, hasLimit := item.Default[name]
	request, hasRequest := item.DefaultRequest[name]
	ratio, hasRatio := item.MaxLimitRequestRatio[name]
	above := func(where string, bad resource.Quantity, lowText string, low resource.Quantity, highText string, high resource.Quantity) {
		if low.Cmp(high) > 0 {
			p.invalid(at.Child(where).Key(string(name)), bad, fmt.Sprintf("%s value %s is greater than %s value %s", lowText, low.String(), highText, high.String()))
		}
	}
	if hasMin && hasMax {
		above("min", min, "min", min, "max", max)
	}
	if hasRequest && hasMin {
		above("defaultRequest", request, "min", min, "default request", request)
	}
	if hasRequest && hasMax {
		above("defaultRequest", request, "default request", request, "max", max)
	}
	if hasRequest && hasLimit {
		above("defaultRequest", request, "default request", request, "default limit", limit)
	}
	if hasLimit && hasMin {
		above("default", min, "min", min, "default", limit)
	}
	if hasLimit && hasMax {
		above("default", max, "default", limit, "max", max)
	}
	if hasRatio {
		at := at.Child("maxLimitRequestRatio").Key(string(name))
		if ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
			p.invalid(at, ratio, fmt.Sprintf("ratio %s is less than 1", ratio.String()))
		}
		if widest := max.AsApproximateFloat64() / min.AsApproximateFloat64(); hasMin && hasMax && ratio.AsApproximateFloat64() > widest {
			p.invalid(at, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), widest))
		}
	}
	if !mayOvercommit(name) && hasLimit && hasRequest && limit.Cmp(request) != 0 {
		p.invalid(at.Child("defaultRequest").Key(string(name)), request,
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), name))
	}
}
