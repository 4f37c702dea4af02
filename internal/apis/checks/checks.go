// Package checks validates single fields in the ways that several API groups
// share. The errors' texts are upstream's.
package checks

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Nonnegative refuses numbers below 0.
func Nonnegative[T ~int | ~int32 | ~int64](v T, path *field.Path) field.ErrorList {
	return validation.ValidateNonnegativeField(int64(v), path)
}

// OptionalNonnegative refuses numbers below 0 that are set.
func OptionalNonnegative[T ~int32 | ~int64](v *T, path *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	return Nonnegative(*v, path)
}

// Enum refuses values that are not among known; a missing one is said to be
// required.
func Enum[T ~string](v T, path *field.Path, known ...T) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return Supported(v, path, known...)
}

// Supported refuses values that are not among known, a missing one too.
func Supported[T ~string](v T, path *field.Path, known ...T) field.ErrorList {
	if slices.Contains(known, v) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, v, known)}
}

// Name runs a name check of apimachinery, e.g. validation.IsDNS1123Label.
func Name(v string, path *field.Path, check func(string) []string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range check(v) {
		errs = append(errs, field.Invalid(path, v, msg))
	}
	return errs
}

// RequiredName is Name for a field that must be set.
func RequiredName(v string, path *field.Path, check func(string) []string) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return Name(v, path, check)
}

// QualifiedName refuses anything but a label key, e.g. example.com/name.
func QualifiedName(v string, path *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return Name(v, path, utilvalidation.IsQualifiedName)
}
