package resource

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis/checks"
	"skiff/internal/apis/core"
)

// maxKeyLength is that of an attribute's or a capacity's full name.
const maxKeyLength = resourcev1.DeviceMaxDomainLength + 1 + resourcev1.DeviceMaxIDLength

// validateDevice checks a device; old is the device before an update, nil if
// there was none. Capacities and taints that stayed as they are are not checked
// again.
func validateDevice(d, old *resourcev1.Device, choosesNodes bool, path *field.Path) field.ErrorList {
	errs := validateLabel(d.Name, path.Child("name"))
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(path, n,
			fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	for name, a := range d.Attributes {
		errs = append(errs, validateQualifiedName(name, path.Child("attributes"))...)
		errs = append(errs, validateAttribute(&a, keyPath(path.Child("attributes"), string(name), maxKeyLength))...)
	}
	shared := d.AllowMultipleAllocations != nil && *d.AllowMultipleAllocations
	for name, c := range d.Capacity {
		errs = append(errs, validateQualifiedName(name, path.Child("capacity"))...)
		errs = append(errs, validateCapacity(&c, shared, keyPath(path.Child("capacity"), string(name), maxKeyLength))...)
	}
	if old == nil || !equality.Semantic.DeepEqual(old.Taints, d.Taints) {
		errs = append(errs, checks.Items(d.Taints, resourcev1.DeviceTaintsMaxLength, path.Child("taints"), validateTaint)...)
	}
	errs = append(errs, checks.Set(d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, path.Child("consumesCounters"),
		func(c *resourcev1.DeviceCounterConsumption) string { return c.CounterSet },
		func(c *resourcev1.DeviceCounterConsumption, at *field.Path) field.ErrorList {
			errs := checks.RequiredName(c.CounterSet, at.Child("counterSet"), utilvalidation.IsDNS1123Label)
			return append(errs, validateCounters(c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, at.Child("counters"))...)
		})...)
	errs = append(errs, validateDeviceNodes(d, choosesNodes, path)...)
	return append(errs, validateBindingConditions(d.BindingConditions, d.BindingFailureConditions, path)...)
}

func validateDeviceNodes(d *resourcev1.Device, choosesNodes bool, path *field.Path) field.ErrorList {
	if !choosesNodes {
		if d.NodeName == nil && d.NodeSelector == nil && d.AllNodes == nil {
			return nil
		}
		return field.ErrorList{field.Invalid(path, nil,
			"`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")}
	}
	var c choice
	c.name(d.NodeName, path.Child("nodeName"), "must not be empty")
	if d.NodeSelector != nil {
		c.made("nodeSelector")
		c.errs = append(c.errs, core.ValidateNodeSelector(d.NodeSelector, path.Child("nodeSelector"))...)
	}
	c.flag("allNodes", d.AllNodes, path)
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	return c.exactlyOne(path, one, one)
}

// choice counts which of several fields are set, where it must be one.
type choice struct {
	names []string
	errs  field.ErrorList
}

func (c *choice) made(name string) { c.names = append(c.names, "`"+name+"`") }

func (c *choice) name(node *string, path *field.Path, empty string) {
	switch {
	case node == nil:
	case *node == "":
		c.errs = append(c.errs, field.Invalid(path, *node, empty))
	default:
		c.made("nodeName")
		c.errs = append(c.errs, checks.Name(*node, path, utilvalidation.IsDNS1123Subdomain)...)
	}
}

func (c *choice) flag(name string, v *bool, path *field.Path) {
	switch {
	case v == nil:
	case *v:
		c.made(name)
	default:
		c.errs = append(c.errs, field.Invalid(path.Child(name), *v, "must be either unset or set to true"))
	}
}

func (c *choice) exactlyOne(path *field.Path, none, several string) field.ErrorList {
	switch len(c.names) {
	case 0:
		return append(c.errs, field.Required(path, none))
	case 1:
		return c.errs
	}
	return append(c.errs, field.Invalid(path, "{"+strings.Join(c.names, ", ")+"}", several))
}

func validateTaint(t *resourcev1.DeviceTaint, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelName(t.Key, path.Child("key"))
	errs = append(errs, checks.Name(t.Value, path.Child("value"), utilvalidation.IsValidLabelValue)...)
	return append(errs, validateEffect(t.Effect, path.Child("effect"))...)
}

func validateCounters(counters map[string]resourcev1.Counter, limit int, path *field.Path) field.ErrorList {
	switch n := len(counters); {
	case n == 0:
		return field.ErrorList{field.Required(path, "")}
	case n > limit:
		return field.ErrorList{field.TooMany(path, n, limit)}
	}
	var errs field.ErrorList
	for name := range counters {
		errs = append(errs, validateLabel(name, path)...)
	}
	return errs
}

// validateBindingConditions checks what a device waits for before a pod is
// bound, and what makes that fail.
func validateBindingConditions(conditions, failures []string, path *field.Path) field.ErrorList {
	on, failing := path.Child("bindingConditions"), path.Child("bindingFailureConditions")
	label := func(name *string, at *field.Path) field.ErrorList {
		return metav1validation.ValidateLabelName(*name, at)
	}
	same := func(name *string) string { return *name }
	errs := checks.Items(conditions, resourcev1.BindingConditionsMaxSize, on, label)
	errs = append(errs, checks.Items(failures, resourcev1.BindingFailureConditionsMaxSize, failing, label)...)
	errs = append(errs, checks.Unique(conditions, on, same)...)
	errs = append(errs, checks.Unique(failures, failing, same)...)
	for i, name := range failures {
		if slices.Contains(conditions, name) {
			errs = append(errs, field.Invalid(failing.Index(i), name, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	if len(conditions) == 0 && len(failures) > 0 {
		errs = append(errs, field.Invalid(on, conditions, "bindingConditions are required to use bindingFailureConditions"))
	}
	if len(failures) == 0 && len(conditions) > 0 {
		errs = append(errs, field.Invalid(failing, failures, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}

// semanticVersion is a version by semver.org 2.0.0: numbers without leading
// zeros, then a pre-release and a build, both of parts with dots between.
var semanticVersion = func() *regexp.Regexp {
	const (
		number  = `(0|[1-9]\d*)`
		release = `(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)`
		build   = `[0-9a-zA-Z-]+`
	)
	return regexp.MustCompile(`^` + number + `\.` + number + `\.` + number +
		`(-` + release + `(\.` + release + `)*)?(\+` + build + `(\.` + build + `)*)?$`)
}()

func validateAttribute(a *resourcev1.DeviceAttribute, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	values := 0
	count := func(set bool) {
		if set {
			values++
		}
	}
	tooLong := func(v, name string) {
		if len(v) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(path.Child(name), "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	count(a.BoolValue != nil)
	count(a.IntValue != nil)
	if a.StringValue != nil {
		count(true)
		tooLong(*a.StringValue, "string")
	}
	if a.VersionValue != nil {
		count(true)
		if !semanticVersion.MatchString(*a.VersionValue) {
			errs = append(errs, field.Invalid(path.Child("version"), *a.VersionValue, "must be a string compatible with semver.org spec 2.0.0"))
		}
		tooLong(*a.VersionValue, "version")
	}
	const one = "exactly one value must be specified"
	switch values {
	case 0:
		return append(errs, field.Invalid(path, "", one))
	case 1:
		return errs
	}
	return append(errs, field.Invalid(path, *a, one))
}
