package storage

import (
	"strings"

	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis/checks"
)

// Limits of a class's parameters, upstream's.
const (
	maxParameters      = 512
	maxParametersBytes = 256 * 1024
)

func validateParameters(parameters map[string]string, required bool, path *field.Path) field.ErrorList {
	if len(parameters) > maxParameters {
		return field.ErrorList{field.TooLong(path, "", maxParameters)}
	}
	var errs field.ErrorList
	size := 0
	for k, v := range parameters {
		if k == "" {
			errs = append(errs, field.Invalid(path, k, "field can not be empty."))
		}
		size += len(k) + len(v)
	}
	if size > maxParametersBytes {
		errs = append(errs, field.TooLong(path, "", maxParametersBytes))
	}
	if required && len(parameters) == 0 {
		errs = append(errs, field.Required(path, "must contain at least one key/value pair"))
	}
	return errs
}

// validateProvisioner accepts label keys of any case.
func validateProvisioner(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return checks.Name(strings.ToLower(name), path, utilvalidation.IsQualifiedName)
}

// markDefault shows which class is the default one, which one of the
// annotations says.
func markDefault(name string, annotations map[string]string, keys ...string) string {
	for _, key := range keys {
		if annotations[key] == "true" {
			return name + " (default)"
		}
	}
	return name
}
