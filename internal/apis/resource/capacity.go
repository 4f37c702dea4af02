package resource

import (
	"fmt"
	"strconv"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis/checks"
)

// maxPolicyValues is how many amounts a policy can list.
const maxPolicyValues = 10

// validateCapacity checks how much of a device's capacity can be asked for.
// Only devices that several claims share have a policy for that.
func validateCapacity(c *resourcev1.DeviceCapacity, shared bool, path *field.Path) field.ErrorList {
	p, path := c.RequestPolicy, path.Child("requestPolicy")
	switch {
	case p == nil:
		return nil
	case !shared:
		return field.ErrorList{field.Forbidden(path, "allowMultipleAllocations must be true")}
	case len(p.ValidValues) > 0 && p.ValidRange != nil:
		return field.ErrorList{field.Forbidden(path, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case len(p.ValidValues) > 0 && p.Default == nil:
		return field.ErrorList{field.Required(path.Child("default"), "required when validValues is defined")}
	case len(p.ValidValues) > 0:
		return validatePolicyValues(p.ValidValues, *p.Default, c.Value, path.Child("validValues"))
	case p.ValidRange != nil && p.Default == nil:
		return field.ErrorList{field.Required(path.Child("default"), "required when validRange is defined")}
	case p.ValidRange != nil:
		return validatePolicyRange(p.ValidRange, *p.Default, c.Value, path.Child("validRange"))
	}
	return nil
}

func validatePolicyValues(values []resource.Quantity, wish, capacity resource.Quantity, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := 1; i < len(values); i++ {
		if values[i-1].Cmp(values[i]) > 0 {
			errs = append(errs, field.Invalid(path.Index(i), values[i].String(), "values must be sorted in ascending order"))
		}
	}
	found := false
	errs = append(errs, checks.Set(values, maxPolicyValues, path, func(q *resource.Quantity) string { return strconv.FormatInt(q.Value(), 10) },
		func(q *resource.Quantity, at *field.Path) field.ErrorList {
			found = found || q.Cmp(wish) == 0
			if q.Cmp(capacity) > 0 {
				return field.ErrorList{field.Invalid(at, q.String(), "option is larger than capacity value: "+capacity.String())}
			}
			return nil
		})...)
	if !found {
		errs = append(errs, field.Invalid(path, wish.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

func validatePolicyRange(r *resourcev1.CapacityRequestPolicyRange, wish, capacity resource.Quantity, path *field.Path) field.ErrorList {
	if r.Min == nil {
		return field.ErrorList{field.Required(path.Child("min"), "required when validRange is defined")}
	}
	var errs field.ErrorList
	refuse := func(name string, value resource.Quantity, detail string, other resource.Quantity) {
		errs = append(errs, field.Invalid(path.Child(name), value.String(), detail+": "+other.String()))
	}
	if r.Min.Cmp(capacity) > 0 {
		refuse("min", *r.Min, "min is larger than capacity value", capacity)
	}
	if wish.Cmp(*r.Min) < 0 {
		refuse("min", wish, "default is less than min", *r.Min)
	}
	if r.Max != nil {
		if r.Min.Cmp(*r.Max) > 0 {
			refuse("max", *r.Min, "min is larger than max", *r.Max)
		}
		if r.Max.Cmp(capacity) > 0 {
			refuse("max", *r.Max, "max is larger than capacity value", capacity)
		}
		if wish.Cmp(*r.Max) > 0 {
			refuse("max", wish, "default is more than max", *r.Max)
		}
	}
	if r.Step != nil {
		errs = append(errs, validatePolicyStep(r, wish, capacity, path.Child("step"))...)
	}
	return errs
}

func validatePolicyStep(r *resourcev1.CapacityRequestPolicyRange, wish, capacity resource.Quantity, path *field.Path) field.ErrorList {
	step := r.Step.Value()
	if step == 0 {
		return field.ErrorList{field.Invalid(path, r.Step.String(), "must be greater than zero")}
	}
	var errs field.ErrorList
	first := r.Min.DeepCopy()
	first.Add(*r.Step)
	if first.Cmp(capacity) > 0 {
		errs = append(errs, field.Invalid(path, r.Step.String(), fmt.Sprintf("one step %s is larger than capacity value: %s", first.String(), capacity.String())))
	}
	onStep := func(q resource.Quantity) {
		if (q.Value()-r.Min.Value())%step != 0 {
			errs = append(errs, field.Invalid(path, q.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", r.Step.String(), r.Min.String())))
		}
	}
	onStep(wish)
	if r.Max != nil {
		onStep(*r.Max)
	}
	return errs
}
