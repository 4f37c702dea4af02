package checks

import (
	"strings"

	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DriverName refuses what is no name of a CSI or DRA driver. Drivers choose
// their names themselves: a domain and, for older ones, with capitals.
func DriverName(name string, path *field.Path) field.ErrorList {
	const limit = 63
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > limit {
		errs = append(errs, field.TooLong(path, "", limit))
	}
	for _, msg := range utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	return errs
}
