package autoscaling

import (
	"context"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis/checks"
)

// Bounds of scaling behaviour in seconds, upstream's.
const (
	maxPeriodSeconds        = 1800
	maxStabilizationSeconds = 3600
)

func validateAutoscaler(_ context.Context, h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	var errs field.ErrorList
	s, path := &h.Spec, field.NewPath("spec")
	if s.MinReplicas != nil && *s.MinReplicas < 1 {
		errs = append(errs, field.Invalid(path.Child("minReplicas"), *s.MinReplicas, "must be greater than or equal to 1"))
	}
	if s.MaxReplicas < 1 {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), s.MaxReplicas, "must be greater than 0"))
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateReference(&s.ScaleTargetRef, path.Child("scaleTargetRef"))...)
	for i := range s.Metrics {
		errs = append(errs, validateMetric(&s.Metrics[i], path.Child("metrics").Index(i))...)
	}
	if s.Behavior != nil {
		errs = append(errs, validateRules(s.Behavior.ScaleUp, path.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(s.Behavior.ScaleDown, path.Child("behavior", "scaleDown"))...)
	}
	return errs
}

func validateReference(r *autoscalingv2.CrossVersionObjectReference, path *field.Path) field.ErrorList {
	errs := checks.RequiredName(r.Kind, path.Child("kind"), pathvalidation.IsValidPathSegmentName)
	errs = append(errs, checks.RequiredName(r.Name, path.Child("name"), pathvalidation.IsValidPathSegmentName)...)
	if _, err := schema.ParseGroupVersion(r.APIVersion); err != nil {
		errs = append(errs, field.Invalid(path.Child("apiVersion"), r.APIVersion, err.Error()))
	}
	return errs
}

func validateMetric(m *autoscalingv2.MetricSpec, path *field.Path) field.ErrorList {
	if m.Type == "" {
		return field.ErrorList{field.Required(path.Child("type"), "must specify a metric source type")}
	}
	sources := []struct {
		kind autoscalingv2.MetricSourceType
		name string
		set  bool
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil},
	}
	errs := checks.Enum(m.Type, path.Child("type"), autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType,
		autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType)
	for _, s := range sources {
		switch {
		case s.kind == m.Type && !s.set:
			errs = append(errs, field.Required(path.Child(s.name), "must populate information for the given metric source"))
		case s.kind != m.Type && s.set:
			errs = append(errs, field.Forbidden(path.Child(s.name), "must populate the given metric source only"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return validateSource(m, path)
}

func validateSource(m *autoscalingv2.MetricSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case m.Object != nil:
		path = path.Child("object")
		errs = append(errs, validateReference(&m.Object.DescribedObject, path.Child("describedObject"))...)
		errs = append(errs, validateMetricName(&m.Object.Metric, path.Child("metric"))...)
		errs = append(errs, validateTarget(&m.Object.Target, path.Child("target"))...)
		if m.Object.Target.Value == nil && m.Object.Target.AverageValue == nil {
			errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value or averageValue"))
		}
	case m.External != nil:
		path = path.Child("external")
		errs = append(errs, validateMetricName(&m.External.Metric, path.Child("metric"))...)
		errs = append(errs, validateTarget(&m.External.Target, path.Child("target"))...)
		switch t := &m.External.Target; {
		case t.Value == nil && t.AverageValue == nil:
			errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
		case t.Value != nil && t.AverageValue != nil:
			errs = append(errs, field.Forbidden(path.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
		}
	case m.Pods != nil:
		path = path.Child("pods")
		errs = append(errs, validateMetricName(&m.Pods.Metric, path.Child("metric"))...)
		errs = append(errs, validateTarget(&m.Pods.Target, path.Child("target"))...)
		if m.Pods.Target.AverageValue == nil || m.Pods.Target.AverageValue.Sign() != 1 {
			errs = append(errs, field.Required(path.Child("target", "averageValue"), "must specify a positive target averageValue"))
		}
	case m.Resource != nil:
		path = path.Child("resource")
		if m.Resource.Name == "" {
			errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
		}
		errs = append(errs, validateResourceTarget(&m.Resource.Target, path.Child("target"))...)
	case m.ContainerResource != nil:
		path = path.Child("containerResource")
		if m.ContainerResource.Name == "" {
			errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
		}
		if m.ContainerResource.Container == "" {
			errs = append(errs, field.Required(path.Child("container"), "must specify a container"))
		}
		errs = append(errs, validateResourceTarget(&m.ContainerResource.Target, path.Child("target"))...)
	}
	return errs
}

func validateMetricName(m *autoscalingv2.MetricIdentifier, path *field.Path) field.ErrorList {
	if m.Name == "" {
		return field.ErrorList{field.Required(path.Child("name"), "must specify a metric name")}
	}
	return checks.Name(m.Name, path.Child("name"), pathvalidation.IsValidPathSegmentName)
}

func validateResourceTarget(t *autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	errs := validateTarget(t, path)
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		errs = append(errs, field.Required(path.Child("averageUtilization"), "must set either a target raw value or a target utilization"))
	case t.AverageUtilization != nil && t.AverageValue != nil:
		errs = append(errs, field.Forbidden(path.Child("averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func validateTarget(t *autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch t.Type {
	case "":
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric target type"))
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		errs = append(errs, field.Invalid(path.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	positive := func(name string, q *resource.Quantity) {
		if q != nil && q.Sign() != 1 {
			errs = append(errs, field.Invalid(path.Child(name), q, "must be positive"))
		}
	}
	positive("value", t.Value)
	positive("averageValue", t.AverageValue)
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(path.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
	return errs
}

func validateRules(r *autoscalingv2.HPAScalingRules, path *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if window := r.StabilizationWindowSeconds; window != nil {
		errs = append(errs, checks.Nonnegative(*window, path.Child("stabilizationWindowSeconds"))...)
		if *window > maxStabilizationSeconds {
			errs = append(errs, field.Invalid(path.Child("stabilizationWindowSeconds"), *window, fmt.Sprintf("must be less than or equal to %v", maxStabilizationSeconds)))
		}
	}
	if r.SelectPolicy != nil {
		errs = append(errs, checks.Enum(*r.SelectPolicy, path.Child("selectPolicy"),
			autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	if r.Tolerance != nil && r.Tolerance.Sign() < 0 {
		errs = append(errs, field.Invalid(path.Child("tolerance"), r.Tolerance.String(), "must be greater than or equal to 0"))
	}
	policies := path.Child("policies")
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(policies, "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		at := policies.Index(i)
		errs = append(errs, checks.Enum(p.Type, at.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)...)
		if p.Value <= 0 {
			errs = append(errs, field.Invalid(at.Child("value"), p.Value, "must be greater than zero"))
		}
		if p.PeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
		}
		if p.PeriodSeconds > maxPeriodSeconds {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", maxPeriodSeconds)))
		}
	}
	return errs
}

func validateAutoscalerStatus(_ context.Context, h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	path := field.NewPath("status")
	errs := checks.Nonnegative(h.Status.CurrentReplicas, path.Child("currentReplicas"))
	return append(errs, checks.Nonnegative(h.Status.DesiredReplicas, path.Child("desiredReplicas"))...)
}
