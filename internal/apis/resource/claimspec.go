package resource

import (
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/dynamic-resource-allocation/cel"

	"skiff/internal/apis/checks"
	"skiff/internal/apis/fill"
)

// Limits of a claim and of a driver's name, upstream's.
const (
	maxRequests    = 32
	maxSelectors   = 32
	maxConstraints = 32
	maxConfigs     = 32
	maxDriverName  = 63
)

func defaultClaimSpec(s *resourcev1.ResourceClaimSpec) {
	counts := func(mode *resourcev1.DeviceAllocationMode, count *int64, tolerations []resourcev1.DeviceToleration) {
		fill.Value(mode, resourcev1.DeviceAllocationModeExactCount)
		if *mode == resourcev1.DeviceAllocationModeExactCount {
			fill.Value(count, 1)
		}
		for i := range tolerations {
			fill.Value(&tolerations[i].Operator, resourcev1.DeviceTolerationOpEqual)
		}
	}
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			counts(&r.Exactly.AllocationMode, &r.Exactly.Count, r.Exactly.Tolerations)
		}
		for k := range r.FirstAvailable {
			sub := &r.FirstAvailable[k]
			counts(&sub.AllocationMode, &sub.Count, sub.Tolerations)
		}
	}
}

func validateDriverName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > maxDriverName {
		errs = append(errs, field.TooLong(path, name, maxDriverName))
	}
	return append(errs, checks.Name(name, path, utilvalidation.IsDNS1123Subdomain)...)
}

// validateClaimSpec checks a claim. CEL selectors are compiled where devices
// are chosen.
func validateClaimSpec(s *resourcev1.ResourceClaimSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	path = path.Child("devices")
	d := &s.Devices
	if n := len(d.Requests); n > maxRequests {
		errs = append(errs, field.TooMany(path.Child("requests"), n, maxRequests))
	}
	var names []string
	for i := range d.Requests {
		r, at := &d.Requests[i], path.Child("requests").Index(i)
		if slices.Contains(names, r.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), r.Name))
		}
		names = append(names, r.Name)
		errs = append(errs, validateRequest(r, at)...)
		for k := range r.FirstAvailable {
			names = append(names, r.Name+"/"+r.FirstAvailable[k].Name)
		}
	}
	known := func(requests []string, at *field.Path) {
		for i, name := range requests {
			if !slices.Contains(names, name) {
				errs = append(errs, field.Invalid(at.Index(i), name, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"))
			}
		}
	}
	if n := len(d.Constraints); n > maxConstraints {
		errs = append(errs, field.TooMany(path.Child("constraints"), n, maxConstraints))
	}
	for i := range d.Constraints {
		c, at := &d.Constraints[i], path.Child("constraints").Index(i)
		known(c.Requests, at.Child("requests"))
		if c.MatchAttribute == nil && c.DistinctAttribute == nil {
			errs = append(errs, field.Required(at.Child("matchAttribute"), ""))
		}
	}
	if n := len(d.Config); n > maxConfigs {
		errs = append(errs, field.TooMany(path.Child("config"), n, maxConfigs))
	}
	for i := range d.Config {
		c, at := &d.Config[i], path.Child("config").Index(i)
		known(c.Requests, at.Child("requests"))
		errs = append(errs, validateConfiguration(&c.DeviceConfiguration, at)...)
	}
	return errs
}

func validateConfiguration(c *resourcev1.DeviceConfiguration, path *field.Path) field.ErrorList {
	if c.Opaque == nil {
		return field.ErrorList{field.Required(path.Child("opaque"), "")}
	}
	errs := validateDriverName(c.Opaque.Driver, path.Child("opaque", "driver"))
	if len(c.Opaque.Parameters.Raw) == 0 && c.Opaque.Parameters.Object == nil {
		errs = append(errs, field.Required(path.Child("opaque", "parameters"), ""))
	}
	return errs
}

func validateRequest(r *resourcev1.DeviceRequest, path *field.Path) field.ErrorList {
	errs := checks.RequiredName(r.Name, path.Child("name"), utilvalidation.IsDNS1123Label)
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(path, "exactly one of `exactly` or `firstAvailable` is required"))
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		return append(errs, field.Invalid(path, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case r.Exactly != nil:
		e := r.Exactly
		return append(errs, validateWish(e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations, path.Child("exactly"))...)
	}
	seen := map[string]bool{}
	for i := range r.FirstAvailable {
		s, at := &r.FirstAvailable[i], path.Child("firstAvailable").Index(i)
		errs = append(errs, checks.RequiredName(s.Name, at.Child("name"), utilvalidation.IsDNS1123Label)...)
		if seen[s.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), s.Name))
		}
		seen[s.Name] = true
		errs = append(errs, validateWish(s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations, at)...)
	}
	return errs
}

// validateWish checks what requests and subrequests share.
func validateWish(class string, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64,
	tolerations []resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	errs := checks.RequiredName(class, path.Child("deviceClassName"), utilvalidation.IsDNS1123Subdomain)
	errs = append(errs, validateSelectors(selectors, path.Child("selectors"))...)
	switch mode {
	case resourcev1.DeviceAllocationModeAll:
		if count != 0 {
			errs = append(errs, field.Invalid(path.Child("count"), count, "must not be specified when allocationMode is 'All'"))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if count <= 0 {
			errs = append(errs, field.Invalid(path.Child("count"), count, "must be greater than zero"))
		}
	default:
		errs = append(errs, checks.Enum(mode, path.Child("allocationMode"), resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount)...)
	}
	for i, t := range tolerations {
		at := path.Child("tolerations").Index(i)
		if t.Key != "" {
			errs = append(errs, checks.Name(t.Key, at.Child("key"), utilvalidation.IsQualifiedName)...)
		}
		errs = append(errs, checks.Enum(t.Operator, at.Child("operator"), resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
		if t.Operator == resourcev1.DeviceTolerationOpExists && t.Value != "" {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
		if t.Operator == resourcev1.DeviceTolerationOpEqual {
			errs = append(errs, checks.Name(t.Value, at.Child("value"), utilvalidation.IsValidLabelValue)...)
			if t.Key == "" {
				errs = append(errs, field.Required(at.Child("key"), "must not be empty for operator `Equal`"))
			}
		}
		if t.Effect != "" {
			errs = append(errs, checks.Enum(t.Effect, at.Child("effect"), resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule)...)
		}
	}
	return errs
}

// validateExpression compiles an expression about a device.
func validateExpression(expression string, path *field.Path) field.ErrorList {
	if len(expression) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(path, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	result := cel.GetCompiler(cel.Features{EnableConsumableCapacity: true}).CompileCELExpression(expression, cel.Options{})
	switch {
	case result.Error != nil && result.Error.Type == apiservercel.ErrorTypeInternal:
		return field.ErrorList{field.InternalError(path, result.Error)}
	case result.Error != nil:
		return field.ErrorList{field.Invalid(path, expression, result.Error.Detail)}
	case result.MaxCost > resourcev1.CELSelectorExpressionMaxCost:
		return field.ErrorList{field.Forbidden(path, "too complex, exceeds cost limit")}
	}
	return nil
}

func validateSelectors(selectors []resourcev1.DeviceSelector, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(selectors) > maxSelectors {
		errs = append(errs, field.TooMany(path, len(selectors), maxSelectors))
	}
	for i, s := range selectors {
		at := path.Index(i).Child("cel")
		if s.CEL == nil || strings.TrimSpace(s.CEL.Expression) == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		errs = append(errs, validateExpression(s.CEL.Expression, at.Child("expression"))...)
	}
	return errs
}
