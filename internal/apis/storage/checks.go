package storage

import (
	"fmt"
	"strings"

	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis/checks"
)

// Limits of a class's parameters and of a driver's name, upstream's.
const (
	maxParameters      = 512
	maxParametersBytes = 256 * 1024
	maxDriverName      = 63
)

// validateDriverName checks a CSI driver's name, which drivers choose: dots
// and, for older ones, capitals.
func validateDriverName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > maxDriverName {
		errs = append(errs, field.TooLong(path, name, maxDriverName))
	}
	for _, msg := range utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	return errs
}

func validateParameters(parameters map[string]string, required bool, path *field.Path) field.ErrorList {
	if required && len(parameters) == 0 {
		return field.ErrorList{field.Required(path, "must contain at least one key/value pair")}
	}
	var errs field.ErrorList
	if len(parameters) > maxParameters {
		errs = append(errs, field.TooLong(path, "Provisioner Parameters exceeded max allowed", maxParameters))
	}
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
	return errs
}

// validateProvisioner accepts label keys of any case.
func validateProvisioner(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	for _, e := range checks.QualifiedName(strings.ToLower(name), path) {
		errs = append(errs, field.Invalid(path, name, e.Detail))
	}
	return errs
}

// markDefault shows which class is the default one.
func markDefault(name string, annotations map[string]string, key string) string {
	if annotations[key] == "true" {
		return fmt.Sprintf("%s (default)", name)
	}
	return name
}
