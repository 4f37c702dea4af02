package resource

import (
	"encoding/json"
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks"
	"skiff/internal/apis/fill"
)

func defaultClaimSpec(s *resourcev1.ResourceClaimSpec) {
	counts := func(mode *resourcev1.DeviceAllocationMode, count *int64, tolerations []resourcev1.DeviceToleration) {
		fill.Value(mode, resourcev1.DeviceAllocationModeExactCount)
		if *mode == resourcev1.DeviceAllocationModeExactCount {
			fill.Value(count, 1)
		}
		defaultTolerations(tolerations)
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

func defaultTolerations(tolerations []resourcev1.DeviceToleration) {
	for i := range tolerations {
		fill.Value(&tolerations[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}

func validateClaimSpec(s *resourcev1.ResourceClaimSpec, path *field.Path) field.ErrorList {
	path = path.Child("devices")
	d := &s.Devices
	names := namesOf(d)
	errs := checks.Set(d.Requests, resourcev1.DeviceRequestsMaxSize, path.Child("requests"),
		func(r *resourcev1.DeviceRequest) string { return r.Name }, validateRequest)
	errs = append(errs, checks.Items(d.Constraints, resourcev1.DeviceConstraintsMaxSize, path.Child("constraints"),
		func(c *resourcev1.DeviceConstraint, at *field.Path) field.ErrorList {
			return validateConstraint(c, names, at)
		})...)
	return append(errs, checks.Items(d.Config, resourcev1.DeviceConfigMaxSize, path.Child("config"),
		func(c *resourcev1.DeviceClaimConfiguration, at *field.Path) field.ErrorList {
			errs := names.validateRefs(c.Requests, at.Child("requests"))
			return append(errs, validateConfiguration(&c.DeviceConfiguration, true, at)...)
		})...)
}

func validateConstraint(c *resourcev1.DeviceConstraint, names requestNames, path *field.Path) field.ErrorList {
	errs := names.validateRefs(c.Requests, path.Child("requests"))
	switch {
	case c.MatchAttribute != nil:
		return append(errs, validateFullyQualifiedName(*c.MatchAttribute, path.Child("matchAttribute"))...)
	case c.DistinctAttribute != nil:
		return append(errs, validateFullyQualifiedName(*c.DistinctAttribute, path.Child("distinctAttribute"))...)
	}
	return append(errs, field.Required(path, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
}

// validateConfiguration checks parameters for a driver. Old ones may be longer
// than new ones.
func validateConfiguration(c *resourcev1.DeviceConfiguration, isNew bool, path *field.Path) field.ErrorList {
	path = path.Child("opaque")
	if c.Opaque == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := checks.DriverName(c.Opaque.Driver, path.Child("driver"))
	limit := resourcev1.OpaqueParametersMaxLength
	if !isNew {
		limit = len(c.Opaque.Parameters.Raw)
	}
	return append(errs, validateJSONObject(c.Opaque.Parameters, limit, path.Child("parameters"))...)
}

// validateJSONObject demands a JSON object of at most limit bytes.
func validateJSONObject(e runtime.RawExtension, limit int, path *field.Path) field.ErrorList {
	if len(e.Raw) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	if len(e.Raw) > limit {
		return field.ErrorList{field.TooLong(path, "", limit)}
	}
	// What is in it is for the driver to see, not for an error message.
	const omitted = "<value omitted>"
	var v any
	if err := json.Unmarshal(e.Raw, &v); err != nil {
		return field.ErrorList{field.Invalid(path, omitted, fmt.Sprintf("error parsing data as JSON: %v", err))}
	}
	if v == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	if _, ok := v.(map[string]any); !ok {
		return field.ErrorList{field.Invalid(path, omitted, "must be a valid JSON object")}
	}
	return nil
}

func validateRequest(r *resourcev1.DeviceRequest, path *field.Path) field.ErrorList {
	errs := validateLabel(r.Name, path.Child("name"))
	const choice = "exactly one of `exactly` or `firstAvailable` is required"
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(path, choice))
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		return append(errs, field.Invalid(path, nil, choice+", but multiple fields are set"))
	case r.Exactly != nil:
		e := r.Exactly
		return append(errs, validateWish(e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations, path.Child("exactly"))...)
	}
	return append(errs, checks.Set(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, path.Child("firstAvailable"),
		func(s *resourcev1.DeviceSubRequest) string { return s.Name },
		func(s *resourcev1.DeviceSubRequest, at *field.Path) field.ErrorList {
			errs := validateLabel(s.Name, at.Child("name"))
			return append(errs, validateWish(s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations, at)...)
		})...)
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
		errs = append(errs, field.NotSupported(path.Child("allocationMode"), mode,
			[]resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount}))
	}
	return append(errs, validateTolerations(tolerations, path.Child("tolerations"))...)
}

func validateTolerations(tolerations []resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, t := range tolerations {
		at := path.Index(i)
		if t.Key != "" {
			errs = append(errs, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		}
		switch t.Operator {
		case resourcev1.DeviceTolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be empty for operator `Exists`"))
			}
		case resourcev1.DeviceTolerationOpEqual:
			errs = append(errs, checks.Name(t.Value, at.Child("value"), utilvalidation.IsValidLabelValue)...)
		default:
			errs = append(errs, checks.Enum(t.Operator, at.Child("operator"), resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
		}
		if t.Effect != "" {
			errs = append(errs, validateEffect(t.Effect, at.Child("effect"))...)
		}
	}
	return errs
}

func validateEffect(effect resourcev1.DeviceTaintEffect, path *field.Path) field.ErrorList {
	return checks.Enum(effect, path, resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone)
}

func validateSelectors(selectors []resourcev1.DeviceSelector, path *field.Path) field.ErrorList {
	return checks.Items(selectors, resourcev1.DeviceSelectorsMaxSize, path, func(s *resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
		if s.CEL == nil {
			return field.ErrorList{field.Required(at.Child("cel"), "")}
		}
		return validateExpression(s.CEL.Expression, at.Child("cel", "expression"))
	})
}

// validateExpression compiles a new expression about a device.
func validateExpression(expression string, path *field.Path) field.ErrorList {
	if len(expression) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(path, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	result := cel.GetCompiler(cel.Features{EnableConsumableCapacity: true}).
		CompileCELExpression(expression, cel.Options{EnvType: ptr.To(environment.NewExpressions)})
	switch {
	case result.Error == nil && result.MaxCost > resourcev1.CELSelectorExpressionMaxCost:
		return field.ErrorList{field.Forbidden(path, "too complex, exceeds cost limit")}
	case result.Error == nil:
		return nil
	case result.Error.Type == apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, result.Error.Detail)}
	case result.Error.Type == apiservercel.ErrorTypeInternal:
		return field.ErrorList{field.InternalError(path, result.Error)}
	}
	return field.ErrorList{field.Invalid(path, expression, result.Error.Detail)}
}
