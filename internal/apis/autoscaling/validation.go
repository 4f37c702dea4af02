package autoscaling

import (
	"context"
	"errors"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks"
	"skiff/internal/apis/core"
)

// Bounds of scaling behaviour in seconds, upstream's.
const (
	maxPeriodSeconds        = 1800
	maxStabilizationSeconds = 3600
)

func validateAutoscaler(_ context.Context, h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	return validateSpec(&h.Spec, nil)
}

func validateAutoscalerUpdate(_ context.Context, h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	return validateSpec(&h.Spec, &old.Spec)
}

// validateSpec checks s. What an older server took may stay as it was in old,
// which is nil on create.
func validateSpec(s, old *autoscalingv2.HorizontalPodAutoscalerSpec) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	least := int32(1)
	if old != nil && ptr.Deref(old.MinReplicas, 1) == 0 {
		least = 0
	}
	if s.MinReplicas != nil && *s.MinReplicas < least {
		errs = append(errs, field.Invalid(path.Child("minReplicas"), *s.MinReplicas, fmt.Sprintf("must be greater than or equal to %d", least)))
	}
	switch {
	case s.MaxReplicas == 0:
		errs = append(errs, field.Required(path.Child("maxReplicas"), "must be set and greater than 0"))
	case s.MaxReplicas < 0:
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to 1"))
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateReference(&s.ScaleTargetRef, targetVersions(s, old), path.Child("scaleTargetRef"))...)
	errs = append(errs, validateMetrics(s, describedVersions(old), path.Child("metrics"))...)
	if s.Behavior != nil {
		errs = append(errs, validateRules(s.Behavior.ScaleUp, path.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(s.Behavior.ScaleDown, path.Child("behavior", "scaleDown"))...)
	}
	return errs
}

// versions says which apiVersions a reference may have.
type versions int

const (
	versionsOfNamedGroups versions = iota
	wellFormedVersions             // the core group's too
	anyVersions
)

func (v versions) check(apiVersion string) error {
	if v == anyVersions {
		return nil
	}
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err == nil && gv.Group == "" && v == versionsOfNamedGroups {
		err = errors.New("apiVersion must specify API group")
	}
	return err
}

// targetVersions: the core group has one scalable kind only.
func targetVersions(s, old *autoscalingv2.HorizontalPodAutoscalerSpec) versions {
	target := &s.ScaleTargetRef
	switch {
	case old != nil && old.ScaleTargetRef.APIVersion == target.APIVersion && old.ScaleTargetRef.Kind == target.Kind:
		return anyVersions
	case target.Kind == "ReplicationController":
		return wellFormedVersions
	}
	return versionsOfNamedGroups
}

// describedVersions is targetVersions for objects that metrics describe.
func describedVersions(old *autoscalingv2.HorizontalPodAutoscalerSpec) versions {
	if old != nil {
		for _, m := range old.Metrics {
			if m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil && wellFormedVersions.check(m.Object.DescribedObject.APIVersion) != nil {
				return anyVersions
			}
		}
	}
	return wellFormedVersions
}

func validateReference(r *autoscalingv2.CrossVersionObjectReference, allowed versions, path *field.Path) field.ErrorList {
	errs := checks.RequiredName(r.Kind, path.Child("kind"), pathvalidation.IsValidPathSegmentName)
	errs = append(errs, checks.RequiredName(r.Name, path.Child("name"), pathvalidation.IsValidPathSegmentName)...)
	if err := allowed.check(r.APIVersion); err != nil {
		errs = append(errs, field.Invalid(path.Child("apiVersion"), r.APIVersion, err.Error()))
	}
	return errs
}

func validateMetrics(s *autoscalingv2.HorizontalPodAutoscalerSpec, described versions, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	fromNothing := false
	for i := range s.Metrics {
		m := &s.Metrics[i]
		errs = append(errs, validateMetric(m, described, path.Index(i))...)
		// Metrics of pods are not there while no pod is.
		fromNothing = fromNothing || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if ptr.Deref(s.MinReplicas, 1) == 0 && !fromNothing {
		errs = append(errs, field.Forbidden(path, "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	return errs
}

// metricSources are the known types of metrics.
var metricSources = []autoscalingv2.MetricSourceType{
	autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType,
	autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType,
}

// validateMetric checks the first source that is set, and that it is the only
// one and the one that the type names.
func validateMetric(m *autoscalingv2.MetricSpec, described versions, path *field.Path) field.ErrorList {
	sources := []struct {
		kind     autoscalingv2.MetricSourceType
		name     string
		set      bool
		validate func(path *field.Path) field.ErrorList
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(path *field.Path) field.ErrorList {
			return validateObjectSource(m.Object, described, path)
		}},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(path *field.Path) field.ErrorList {
			return validateExternalSource(m.External, path)
		}},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(path *field.Path) field.ErrorList {
			return validatePodsSource(m.Pods, path)
		}},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(path *field.Path) field.ErrorList {
			return validateResourceSource(m.Resource, path)
		}},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(path *field.Path) field.ErrorList {
			return validateContainerResourceSource(m.ContainerResource, path)
		}},
	}
	var errs, wrong field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric source type"))
	}
	errs = append(errs, checks.Supported(m.Type, path.Child("type"), metricSources...)...)
	known, set := false, 0
	for _, s := range sources {
		at := path.Child(s.name)
		if s.set {
			set++
			if set == 1 {
				errs = append(errs, s.validate(at)...)
			}
		}
		if s.kind == m.Type {
			known = true
			if !s.set {
				wrong = append(wrong, field.Required(at, "must populate information for the given metric source"))
			}
		}
	}
	if !known {
		wrong = append(wrong, checks.Supported(m.Type, path.Child("type"), metricSources...)...)
	}
	for _, s := range sources {
		if set > 1 && s.set && s.kind != m.Type {
			wrong = append(wrong, field.Forbidden(path.Child(s.name), "must populate the given metric source only"))
		}
	}
	return append(errs, wrong...)
}

func validateObjectSource(s *autoscalingv2.ObjectMetricSource, described versions, path *field.Path) field.ErrorList {
	errs := validateReference(&s.DescribedObject, described, path.Child("describedObject"))
	errs = append(errs, validateMetricName(&s.Metric, path.Child("metric"))...)
	errs = append(errs, validateTarget(&s.Target, path.Child("target"))...)
	if s.Target.Value == nil && s.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	return errs
}

func validateExternalSource(s *autoscalingv2.ExternalMetricSource, path *field.Path) field.ErrorList {
	errs := validateMetricName(&s.Metric, path.Child("metric"))
	errs = append(errs, validateTarget(&s.Target, path.Child("target"))...)
	switch t := &s.Target; {
	case t.Value == nil && t.AverageValue == nil:
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	case t.Value != nil && t.AverageValue != nil:
		errs = append(errs, field.Forbidden(path.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func validatePodsSource(s *autoscalingv2.PodsMetricSource, path *field.Path) field.ErrorList {
	errs := validateMetricName(&s.Metric, path.Child("metric"))
	errs = append(errs, validateTarget(&s.Target, path.Child("target"))...)
	if s.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return errs
}

func validateResourceSource(s *autoscalingv2.ResourceMetricSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	}
	return append(errs, validateResourceTarget(&s.Target, path.Child("target"))...)
}

func validateContainerResourceSource(s *autoscalingv2.ContainerResourceMetricSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	} else {
		errs = append(errs, core.ValidateContainerResourceName(s.Name, path.Child("name"))...)
	}
	if s.Container == "" {
		errs = append(errs, field.Required(path.Child("container"), "must specify a container"))
	} else {
		errs = append(errs, checks.Name(s.Container, path.Child("container"), utilvalidation.IsDNS1123Label)...)
	}
	return append(errs, validateResourceTarget(&s.Target, path.Child("target"))...)
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
	if t.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric target type"))
	}
	switch t.Type {
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
		if *window < 0 {
			errs = append(errs, field.Invalid(path.Child("stabilizationWindowSeconds"), *window, "must be greater than or equal to zero"))
		}
		if *window > maxStabilizationSeconds {
			errs = append(errs, field.Invalid(path.Child("stabilizationWindowSeconds"), *window, fmt.Sprintf("must be less than or equal to %v", maxStabilizationSeconds)))
		}
	}
	if r.SelectPolicy != nil {
		errs = append(errs, checks.Supported(*r.SelectPolicy, path.Child("selectPolicy"),
			autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	policies := path.Child("policies")
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(policies, "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		at := policies.Index(i)
		errs = append(errs, checks.Supported(p.Type, at.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)...)
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
	if r.Tolerance != nil && r.Tolerance.Sign() < 0 {
		errs = append(errs, field.Invalid(path.Child("tolerance"), r.Tolerance.String(), "must be greater than or equal to 0"))
	}
	return errs
}

func validateAutoscalerStatus(_ context.Context, h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	path := field.NewPath("status")
	errs := checks.Nonnegative(h.Status.CurrentReplicas, path.Child("currentReplicas"))
	return append(errs, checks.Nonnegative(h.Status.DesiredReplicas, path.Child("desiredReplicas"))...)
}
