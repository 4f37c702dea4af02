package config

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	configv1 "k8s.io/kube-scheduler/config/v1"
)

func validateArgs(at *field.Path, o runtime.Object) field.ErrorList {
	switch args := o.(type) {
	case *configv1.DefaultPreemptionArgs:
		return validatePreemption(at, args)
	case *configv1.InterPodAffinityArgs:
		if w := *args.HardPodAffinityWeight; w < 0 || w > 100 {
			return field.ErrorList{field.Invalid(at.Child("hardPodAffinityWeight"), w, "not in valid range [0, 100]")}
		}
	case *configv1.NodeAffinityArgs:
		return validateAddedAffinity(at.Child("addedAffinity"), args.AddedAffinity)
	case *configv1.NodeResourcesBalancedAllocationArgs:
		return validateBalanced(at.Child("resources"), args.Resources)
	case *configv1.NodeResourcesFitArgs:
		return validateFit(at, args)
	case *configv1.PodTopologySpreadArgs:
		return validateSpread(at, args)
	case *configv1.VolumeBindingArgs:
		if s := *args.BindTimeoutSeconds; s < 0 {
			return field.ErrorList{field.Invalid(at.Child("bindTimeoutSeconds"), s, "invalid BindTimeoutSeconds, should not be a negative value")}
		}
	case *configv1.DynamicResourcesArgs:
		return validateDynamic(at, args)
	}
	return nil
}

func validatePreemption(at *field.Path, args *configv1.DefaultPreemptionArgs) (errs field.ErrorList) {
	percentage, absolute := at.Child("minCandidateNodesPercentage"), at.Child("minCandidateNodesAbsolute")
	p, a := *args.MinCandidateNodesPercentage, *args.MinCandidateNodesAbsolute
	if p < 0 || p > 100 {
		errs = append(errs, field.Invalid(percentage, p, "not in valid range [0, 100]"))
	}
	if a < 0 {
		errs = append(errs, field.Invalid(absolute, a, "not in valid range [0, inf)"))
	}
	if p == 0 && a == 0 {
		errs = append(errs, field.Invalid(percentage, p, "cannot be zero at the same time as minCandidateNodesAbsolute"),
			field.Invalid(absolute, a, "cannot be zero at the same time as minCandidateNodesPercentage"))
	}
	return errs
}

func validateAddedAffinity(at *field.Path, a *corev1.NodeAffinity) (errs field.ErrorList) {
	if a == nil {
		return nil
	}
	if required := a.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		at := at.Child("requiredDuringSchedulingIgnoredDuringExecution")
		if _, err := nodeaffinity.NewNodeSelector(required); err != nil {
			errs = append(errs, field.Invalid(at, required, err.Error()))
		}
	}
	if preferred := a.PreferredDuringSchedulingIgnoredDuringExecution; len(preferred) > 0 {
		at := at.Child("preferredDuringSchedulingIgnoredDuringExecution")
		if _, err := nodeaffinity.NewPreferredSchedulingTerms(preferred); err != nil {
			errs = append(errs, field.Invalid(at, preferred, err.Error()))
		}
	}
	return errs
}

func validateBalanced(at *field.Path, resources []configv1.ResourceSpec) (errs field.ErrorList) {
	seen := sets.New[string]()
	for i, r := range resources {
		if seen.Has(r.Name) {
			errs = append(errs, field.Duplicate(at.Index(i).Child("name"), r.Name))
		}
		seen.Insert(r.Name)
		if r.Weight != 1 {
			errs = append(errs, field.Invalid(at.Index(i).Child("weight"), r.Weight, "must be 1"))
		}
	}
	return errs
}

func validateFit(at *field.Path, args *configv1.NodeResourcesFitArgs) (errs field.ErrorList) {
	for i, r := range args.IgnoredResources {
		errs = append(errs, metav1validation.ValidateLabelName(r, at.Child("ignoredResources").Index(i))...)
	}
	for i, group := range args.IgnoredResourceGroups {
		at := at.Child("ignoredResourceGroups").Index(i)
		if strings.Contains(group, "/") {
			errs = append(errs, field.Invalid(at, group, "resource group name can't contain '/'"))
		}
		errs = append(errs, metav1validation.ValidateLabelName(group, at)...)
	}
	at = at.Child("scoringStrategy")
	s := args.ScoringStrategy
	types := []configv1.ScoringStrategyType{configv1.LeastAllocated, configv1.MostAllocated, configv1.RequestedToCapacityRatio}
	if !sets.New(types...).Has(s.Type) {
		errs = append(errs, field.NotSupported(at.Child("type"), s.Type, types))
	}
	for i, r := range s.Resources {
		if r.Weight <= 0 || r.Weight > 100 {
			errs = append(errs, field.Invalid(at.Child("resources").Index(i).Child("weight"), r.Weight,
				fmt.Sprintf("resource weight of %v not in valid range (0, 100]", r.Name)))
		}
	}
	ratio := at.Child("requestedToCapacityRatio")
	switch {
	case s.Type != configv1.RequestedToCapacityRatio:
		if s.RequestedToCapacityRatio != nil {
			errs = append(errs, field.Forbidden(ratio, "must be nil when type is not RequestedToCapacityRatio"))
		}
	case s.RequestedToCapacityRatio == nil:
		errs = append(errs, field.Required(ratio, "must be specified when type is RequestedToCapacityRatio"))
	default:
		errs = append(errs, validateShape(ratio.Child("shape"), s.RequestedToCapacityRatio.Shape)...)
	}
	return errs
}

func validateShape(at *field.Path, shape []configv1.UtilizationShapePoint) (errs field.ErrorList) {
	if len(shape) == 0 {
		return field.ErrorList{field.Required(at, "at least one point must be specified")}
	}
	for i, p := range shape {
		utilization, score := at.Index(i).Child("utilization"), at.Index(i).Child("score")
		if i > 0 && shape[i-1].Utilization >= p.Utilization {
			errs = append(errs, field.Invalid(utilization, p.Utilization, "values must be sorted in increasing order"))
		}
		if p.Utilization < 0 || p.Utilization > 100 {
			errs = append(errs, field.Invalid(utilization, p.Utilization, "not in valid range [0, 100]"))
		}
		if p.Score < 0 || p.Score > MaxShapeScore {
			errs = append(errs, field.Invalid(score, p.Score, fmt.Sprintf("not in valid range [0, %d]", MaxShapeScore)))
		}
	}
	return errs
}

// MaxShapeScore is the highest score of a point of a shape.
const MaxShapeScore = 10

func validateSpread(at *field.Path, args *configv1.PodTopologySpreadArgs) (errs field.ErrorList) {
	kinds := []configv1.PodTopologySpreadConstraintsDefaulting{configv1.SystemDefaulting, configv1.ListDefaulting}
	kind := at.Child("defaultingType")
	if !sets.New(kinds...).Has(args.DefaultingType) {
		errs = append(errs, field.NotSupported(kind, args.DefaultingType, kinds))
	}
	if args.DefaultingType == configv1.SystemDefaulting && len(args.DefaultConstraints) > 0 {
		errs = append(errs, field.Invalid(kind, args.DefaultingType, "when .defaultConstraints are not empty"))
	}
	type identity struct {
		key    string
		action corev1.UnsatisfiableConstraintAction
	}
	seen := sets.New[identity]()
	for i := range args.DefaultConstraints {
		c, at := &args.DefaultConstraints[i], at.Child("defaultConstraints").Index(i)
		if c.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "not in valid range (0, inf)"))
		}
		if c.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		} else {
			errs = append(errs, metav1validation.ValidateLabelName(c.TopologyKey, at.Child("topologyKey"))...)
		}
		switch c.WhenUnsatisfiable {
		case corev1.DoNotSchedule, corev1.ScheduleAnyway:
		case "":
			errs = append(errs, field.Required(at.Child("whenUnsatisfiable"), "can not be empty"))
		default:
			errs = append(errs, field.NotSupported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable,
				[]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}))
		}
		if c.LabelSelector != nil {
			errs = append(errs, field.Forbidden(at.Child("labelSelector"), "constraint must not define a selector, as they deduced for each pod"))
		}
		id := identity{c.TopologyKey, c.WhenUnsatisfiable}
		if seen.Has(id) {
			errs = append(errs, field.Duplicate(at, fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)))
		}
		seen.Insert(id)
	}
	return errs
}

func validateDynamic(at *field.Path, args *configv1.DynamicResourcesArgs) (errs field.ErrorList) {
	if args.FilterTimeout != nil && args.FilterTimeout.Duration < 0 {
		errs = append(errs, field.Invalid(at.Child("filterTimeout"), args.FilterTimeout.Duration.String(), "must be zero or positive"))
	}
	if args.BindingTimeout != nil && args.BindingTimeout.Duration < time.Second {
		errs = append(errs, field.Invalid(at.Child("bindingTimeout"), args.BindingTimeout.Duration.String(), "must be at least 1 second"))
	}
	return errs
}
