package checks

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// NumberOrPercent refuses anything but a whole number of at least 0 or a
// percentage such as "5%".
func NumberOrPercent(v intstr.IntOrString, path *field.Path) field.ErrorList {
	switch v.Type {
	case intstr.String:
		var errs field.ErrorList
		for _, msg := range utilvalidation.IsValidPercent(v.StrVal) {
			errs = append(errs, field.Invalid(path, v, msg))
		}
		return errs
	case intstr.Int:
		return Nonnegative(v.IntVal, path)
	}
	return field.ErrorList{field.Invalid(path, v, "must be an integer or percentage (e.g '5%%')")}
}

// AtMost100Percent refuses percentages above 100.
func AtMost100Percent(v intstr.IntOrString, path *field.Path) field.ErrorList {
	if n, ok := percentage(v); ok && n > 100 {
		return field.ErrorList{field.Invalid(path, v, "must not be greater than 100%")}
	}
	return nil
}

// IsZero reports whether v is 0 or 0%.
func IsZero(v intstr.IntOrString) bool {
	if n, ok := percentage(v); ok {
		return n == 0
	}
	return v.IntValue() == 0
}

// percentage returns the number before the percent sign, if v has one.
func percentage(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(utilvalidation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return n, err == nil
}
