package crd

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/warning"

	"skiff/internal/apis"
	"skiff/internal/apiserver/verbs"
)

// The checks below look at one object in the version that it says it has. What
// was wrong before an update and is not touched by it stays allowed (KEP-4008).

// checked finds the version and checks of an object.
func (d *definition) checked(obj apis.Object) (*unstructured.Unstructured, *version, *checks, field.ErrorList) {
	u := obj.(*unstructured.Unstructured)
	v := d.versionOf(u)
	if v == nil {
		return nil, nil, nil, field.ErrorList{field.Invalid(field.NewPath("apiVersion"), u.GetAPIVersion(), "is not a version of "+d.crd.Name)}
	}
	c, err := v.checks()
	if err != nil {
		return nil, nil, nil, field.ErrorList{field.InternalError(nil, err)}
	}
	return u, v, c, nil
}

func (d *definition) validate(ctx context.Context, obj apis.Object) field.ErrorList {
	u, v, c, errs := d.checked(obj)
	if errs != nil {
		return errs
	}
	s := v.structure()
	errs = append(errs, validation.ValidateCustomResource(nil, u.Object, c.schema)...)
	errs = append(errs, validateReplicas(u, v, true)...)
	errs = append(errs, objectmeta.Validate(nil, u.Object, s, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s, u.Object)...)
	return append(errs, c.obey(ctx, s, errs, u.Object, nil)...)
}

func (d *definition) validateUpdate(ctx context.Context, obj, old apis.Object) field.ErrorList {
	defer d.config.Metrics.updated(time.Now())
	u, v, c, errs := d.checked(obj)
	if errs != nil {
		return errs
	}
	was, s := old.(*unstructured.Unstructured), v.structure()
	correlated := common.NewCorrelatedObject(u.Object, was.Object, &model.Structural{Structural: s})
	errs = append(errs, validation.ValidateCustomResourceUpdate(nil, u.Object, was.Object, c.schema, validation.WithRatcheting(correlated))...)
	errs = append(errs, validateReplicas(u, v, true)...)
	errs = append(errs, objectmeta.Validate(nil, u.Object, s, false)...)
	errs = append(errs, newListErrors(s, u, was)...)
	return append(errs, c.obey(ctx, s, errs, u.Object, was.Object, cel.WithRatcheting(correlated))...)
}

func (d *definition) validateStatusUpdate(ctx context.Context, obj, old apis.Object) field.ErrorList {
	u, v, c, errs := d.checked(obj)
	if errs != nil {
		return errs
	}
	was, s := old.(*unstructured.Unstructured), v.structure()
	correlated := common.NewCorrelatedObject(u.Object, was.Object, &model.Structural{Structural: s})
	if status, ok := u.Object["status"]; ok && c.status != nil {
		var options []validation.ValidationOption
		if s != nil {
			options = append(options, validation.WithRatcheting(correlated.Key("status")))
		}
		errs = append(errs, validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, was.Object["status"], c.status, options...)...)
	}
	errs = append(errs, validateReplicas(u, v, false)...)
	errs = append(errs, newListErrors(s, u, was)...)
	return append(errs, c.obey(ctx, s, errs, u.Object, was.Object, cel.WithRatcheting(correlated))...)
}

// newListErrors checks lists that are sets or maps, unless they were wrong
// before.
func newListErrors(s *structural.Structural, u, was *unstructured.Unstructured) field.ErrorList {
	errs := listtype.ValidateListSetsAndMaps(nil, s, u.Object)
	if len(errs) > 0 && len(listtype.ValidateListSetsAndMaps(nil, s, was.Object)) > 0 {
		return nil
	}
	return errs
}

// obey evaluates the x-kubernetes-validations rules, unless other errors tell
// that the object does not have the form that they are written for.
func (c *checks) obey(ctx context.Context, s *structural.Structural, found field.ErrorList, obj, old map[string]any, options ...cel.Option) field.ErrorList {
	if c.rules == nil {
		return nil
	}
	// What else is wrong with metadata is found elsewhere, and rules bear it.
	name, _, _ := unstructured.NestedString(obj, "metadata", "name")
	if name == "" || slices.ContainsFunc(found, malformed) {
		return field.ErrorList{field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation")}
	}
	var was any // a nil map would be an old object
	if old != nil {
		was = old
	}
	defer c.cel.Evaluated(time.Now())
	// What an update may leave wrong is warned of.
	ctx = warning.WithWarningRecorder(ctx, warner(func(text string) { verbs.Warn(ctx, text) }))
	errs, _ := c.rules.Validate(ctx, nil, s, obj, was, celconfig.RuntimeCELCostBudget, options...)
	return errs
}

// warner is told of warnings, whoever gives them.
type warner func(text string)

func (w warner) AddWarning(_, text string) { w(text) }

func malformed(e *field.Error) bool {
	switch e.Type {
	case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
		return true
	}
	return false
}

// validateReplicas checks the fields that the scale subresource shows.
func validateReplicas(u *unstructured.Unstructured, v *version, spec bool) field.ErrorList {
	scale := v.scale()
	if scale == nil {
		return nil
	}
	var errs field.ErrorList
	count := func(path string) {
		n, _, err := unstructured.NestedInt64(u.Object, fieldsOf(path)...)
		switch at := field.NewPath(path); {
		case err != nil:
			errs = append(errs, field.Invalid(at, n, err.Error()))
		case n < 0:
			errs = append(errs, field.Invalid(at, n, "should be a non-negative integer"))
		case n > math.MaxInt32:
			errs = append(errs, field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32)))
		}
	}
	if spec {
		count(scale.SpecReplicasPath)
	}
	count(scale.StatusReplicasPath)
	if path := scale.LabelSelectorPath; path != nil {
		if s, _, err := unstructured.NestedString(u.Object, fieldsOf(*path)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*path), s, err.Error()))
		}
	}
	return errs
}

// fieldsOf splits a simple JSON path, e.g. ".spec.replicas".
func fieldsOf(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

func (v *version) scale() *apiextensionsv1.CustomResourceSubresourceScale {
	if v.Subresources == nil {
		return nil
	}
	return v.Subresources.Scale
}

// finalizerWarnings advise against new finalizers whose names say nothing of
// who made them.
func finalizerWarnings(_ context.Context, obj, old apis.Object) []string {
	var known []string
	if old != nil {
		known = old.GetFinalizers()
	}
	var out []string
	for _, f := range slices.Sorted(slices.Values(obj.GetFinalizers())) {
		if slices.Contains(known, f) {
			continue
		}
		for _, msg := range utilvalidation.IsQualifiedName(f) {
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: %s", f, msg))
		}
		switch {
		case strings.Contains(f, "/") || f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents || f == "kubernetes":
		case strings.Contains(f, "."):
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers", f))
		default:
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers", f))
		}
	}
	return out
}
