package authorization

import (
	"context"
	"errors"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis/unversioned"
	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// invalidKind is the kind that refusals of reviews name: none.
var invalidKind = schema.GroupKind{Group: authorizationv1.GroupName}

func invalid(errs field.ErrorList) error {
	return apierrors.NewInvalid(invalidKind, "", unversioned.Errors(errs))
}

// question is what the three access reviews have in common.
type question struct {
	user        *identity.User
	resource    *authorizationv1.ResourceAttributes
	nonResource *authorizationv1.NonResourceAttributes
}

func questionOf(spec *authorizationv1.SubjectAccessReviewSpec) question {
	u := &identity.User{Name: spec.User, UID: spec.UID, Groups: spec.Groups}
	if len(spec.Extra) > 0 {
		u.Extra = make(map[string][]string, len(spec.Extra))
		for k, v := range spec.Extra {
			u.Extra[k] = v
		}
	}
	return question{u, spec.ResourceAttributes, spec.NonResourceAttributes}
}

// ask puts a valid question to the authorizer. Selectors that cannot be parsed
// are left out, which asks for more than was wanted and so errs on the safe
// side (KEP-4601); the status says so.
func ask(ctx context.Context, authorizer authz.Authorizer, q question) (authorizationv1.SubjectAccessReviewStatus, error) {
	if authorizer == nil {
		err := errors.New("this server has no authorizer: it cannot review access")
		return authorizationv1.SubjectAccessReviewStatus{}, apierrors.NewInternalError(err)
	}
	attributes := &authz.Attributes{User: q.user}
	var problems []string
	if r := q.resource; r != nil {
		attributes.Verb, attributes.Namespace, attributes.Name = r.Verb, r.Namespace, r.Name
		attributes.Group, attributes.Version = r.Group, r.Version
		attributes.Resource, attributes.Subresource = r.Resource, r.Subresource
		if attributes.Version == "" {
			attributes.Version = "*"
		}
		problem := func(selector string, found int, err error) {
			if err != nil {
				part := ""
				if found > 0 {
					part = "partially "
				}
				problems = append(problems, fmt.Sprintf("spec.resourceAttributes.%s %signored due to parse error", selector, part))
			}
		}
		if r.FieldSelector != nil {
			requirements, err := fieldRequirements(r.FieldSelector)
			attributes.FieldSelector = requirements
			problem("fieldSelector", len(requirements), err)
		}
		if r.LabelSelector != nil {
			requirements, err := labelRequirements(r.LabelSelector)
			attributes.LabelSelector = requirements
			problem("labelSelector", len(requirements), err)
		}
	} else {
		attributes.Verb, attributes.Path = q.nonResource.Verb, q.nonResource.Path
	}
	decision, reason, err := authorizer.Authorize(ctx, attributes)
	if err != nil {
		problems = append([]string{err.Error()}, problems...)
	}
	return authorizationv1.SubjectAccessReviewStatus{
		Allowed:         decision == authz.Allow,
		Denied:          decision == authz.Deny,
		Reason:          reason,
		EvaluationError: strings.Join(problems, "; "),
	}, nil
}

func fieldRequirements(in *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if in.RawSelector != "" {
		selector, err := fields.ParseSelector(in.RawSelector)
		if err != nil {
			return nil, err
		}
		return selector.Requirements(), nil
	}
	var out fields.Requirements
	var errs []error
	for _, r := range in.Requirements {
		var operator selection.Operator
		switch r.Operator {
		case metav1.FieldSelectorOpIn:
			operator = selection.Equals
		case metav1.FieldSelectorOpNotIn:
			operator = selection.NotEquals
		default:
			errs = append(errs, fmt.Errorf("field selector operator %q is not supported", r.Operator))
			continue
		}
		if len(r.Values) != 1 {
			errs = append(errs, fmt.Errorf("field selector on %s needs exactly one value, got %d", r.Key, len(r.Values)))
			continue
		}
		out = append(out, fields.Requirement{Field: r.Key, Operator: operator, Value: r.Values[0]})
	}
	return out, utilerrors.NewAggregate(errs)
}

func labelRequirements(in *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if in.RawSelector != "" {
		selector, err := labels.Parse(in.RawSelector)
		if err != nil {
			return nil, err
		}
		requirements, _ := selector.Requirements()
		return requirements, nil
	}
	operators := map[metav1.LabelSelectorOperator]selection.Operator{
		metav1.LabelSelectorOpIn:           selection.In,
		metav1.LabelSelectorOpNotIn:        selection.NotIn,
		metav1.LabelSelectorOpExists:       selection.Exists,
		metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	var out labels.Requirements
	var errs []error
	for _, r := range in.Requirements {
		operator, ok := operators[r.Operator]
		if !ok {
			errs = append(errs, fmt.Errorf("label selector operator %q is not supported", r.Operator))
			continue
		}
		requirement, err := labels.NewRequirement(r.Key, operator, r.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, *requirement)
	}
	return out, utilerrors.NewAggregate(errs)
}

func validateQuestion(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	switch {
	case r != nil && n != nil:
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), n, "cannot be specified in combination with resourceAttributes"))
	case r == nil && n == nil:
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes"), n, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if r != nil {
		errs = append(errs, validateSelectors(r, spec.Child("resourceAttributes"))...)
	}
	return errs
}

func validateSubject(spec *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateQuestion(spec.ResourceAttributes, spec.NonResourceAttributes)
	if spec.User == "" && len(spec.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), spec.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateSelectors(r *authorizationv1.ResourceAttributes, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	raw := func(path *field.Path, raw string, requirements int) {
		switch {
		case raw != "" && requirements > 0:
			errs = append(errs, field.Invalid(path.Child("rawSelector"), raw, "may not specified at the same time as requirements"))
		case raw == "" && requirements == 0:
			errs = append(errs, field.Required(path.Child("requirements"), "when "+path.String()+" is specified, requirements or rawSelector is required"))
		}
	}
	if s := r.FieldSelector; s != nil {
		path := path.Child("fieldSelector")
		raw(path, s.RawSelector, len(s.Requirements))
		for i, requirement := range s.Requirements {
			errs = append(errs, metav1validation.ValidateFieldSelectorRequirement(requirement,
				metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true},
				path.Child("requirements").Index(i))...)
		}
	}
	if s := r.LabelSelector; s != nil {
		path := path.Child("labelSelector")
		raw(path, s.RawSelector, len(s.Requirements))
		for i, requirement := range s.Requirements {
			errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(requirement,
				metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true},
				path.Child("requirements").Index(i))...)
		}
	}
	return errs
}

// validateMeta refuses metadata, which a review has no use for.
func validateMeta(meta metav1.ObjectMeta, namespaced bool) field.ErrorList {
	rest, detail := meta, "must be empty"
	rest.ManagedFields = nil
	if namespaced {
		rest.Namespace, detail = "", "must be empty except for namespace"
	}
	if equality.Semantic.DeepEqual(rest, metav1.ObjectMeta{}) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), meta, detail)}
}
