package flowcontrol

import (
	"context"
	"fmt"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

func flowSchema() *apis.Resource {
	docs := flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()
	return apis.Of[*flowcontrolv1.FlowSchema]{
		Names: apis.Names{
			Group: "flowcontrol.apiserver.k8s.io", Resource: "flowschemas", Singular: "flowschema", Kind: "FlowSchema",
		},
		Version:    "v1",
		New:        func() *flowcontrolv1.FlowSchema { return &flowcontrolv1.FlowSchema{} },
		NewList:    func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} },
		HasStatus:  true,
		Generation: true,
		Default:    func(s *flowcontrolv1.FlowSchema) { fill.Value(&s.Spec.MatchingPrecedence, defaultPrecedence) },
		Validate:   validateFlowSchema,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("PriorityLevel", docs["priorityLevelConfiguration"]),
			columns.String("MatchingPrecedence", docs["matchingPrecedence"]),
			columns.String("DistinguisherMethod", docs["distinguisherMethod"]),
			columns.AgeColumn(),
			columns.String("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
		},
		Cells: func(s *flowcontrolv1.FlowSchema) []any {
			method, missing := columns.None, "?"
			if s.Spec.DistinguisherMethod != nil {
				method = string(s.Spec.DistinguisherMethod.Type)
			}
			for _, c := range s.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					missing = string(c.Status)
				}
			}
			return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, columns.Age(s.CreationTimestamp), missing}
		},
	}.Resource()
}

// Bounds of spec.matchingPrecedence, and what it is when nobody says.
const (
	defaultPrecedence = 1000
	maxPrecedence     = 10000
)

func validateFlowSchema(_ context.Context, f *flowcontrolv1.FlowSchema) field.ErrorList {
	var errs field.ErrorList
	s, path := &f.Spec, field.NewPath("spec")
	precedence := path.Child("matchingPrecedence")
	if s.MatchingPrecedence <= 0 {
		errs = append(errs, field.Invalid(precedence, s.MatchingPrecedence, "must be a positive value"))
	}
	if s.MatchingPrecedence > maxPrecedence {
		errs = append(errs, field.Invalid(precedence, s.MatchingPrecedence, fmt.Sprintf("must not be greater than %v", maxPrecedence)))
	}
	if s.MatchingPrecedence == 1 && f.Name != flowcontrolv1.FlowSchemaNameExempt {
		errs = append(errs, field.Invalid(precedence, s.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if s.DistinguisherMethod != nil {
		errs = append(errs, checks.Enum(s.DistinguisherMethod.Type, path.Child("distinguisherMethod", "type"),
			flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)...)
	}
	errs = append(errs, checks.RequiredName(s.PriorityLevelConfiguration.Name, path.Child("priorityLevelConfiguration", "name"), utilvalidation.IsDNS1123Subdomain)...)
	for i := range s.Rules {
		errs = append(errs, validateFlowRule(&s.Rules[i], path.Child("rules").Index(i))...)
	}
	return errs
}

func validateFlowRule(r *flowcontrolv1.PolicyRulesWithSubjects, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateFlowSubject(&r.Subjects[i], path.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	nonempty := func(values []string, at *field.Path, name string) {
		if len(values) == 0 {
			errs = append(errs, field.Required(at.Child(name), name+" must contain at least one value"))
		}
	}
	for i := range r.ResourceRules {
		rule, at := &r.ResourceRules[i], path.Child("resourceRules").Index(i)
		nonempty(rule.Verbs, at, "verbs")
		nonempty(rule.APIGroups, at, "apiGroups")
		nonempty(rule.Resources, at, "resources")
		if len(rule.Namespaces) == 0 && !rule.ClusterScope {
			errs = append(errs, field.Required(at.Child("namespaces"), "resource rules that are not cluster scoped must supply at least one namespace"))
		}
	}
	for i := range r.NonResourceRules {
		rule, at := &r.NonResourceRules[i], path.Child("nonResourceRules").Index(i)
		nonempty(rule.Verbs, at, "verbs")
		nonempty(rule.NonResourceURLs, at, "nonResourceURLs")
		for k, url := range rule.NonResourceURLs {
			if url != "*" && !strings.HasPrefix(url, "/") {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs").Index(k), url, "must start with slash"))
			}
		}
	}
	return errs
}

func validateFlowSubject(s *flowcontrolv1.Subject, path *field.Path) field.ErrorList {
	errs := checks.Enum(s.Kind, path.Child("kind"), flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser)
	member := func(kind flowcontrolv1.SubjectKind, name string, set bool) {
		switch {
		case s.Kind == kind && !set:
			errs = append(errs, field.Required(path.Child(name), name+" is required when subject kind is '"+string(kind)+"'"))
		case s.Kind != kind && set:
			errs = append(errs, field.Forbidden(path.Child(name), name+" is forbidden when subject kind is not '"+string(kind)+"'"))
		}
	}
	member(flowcontrolv1.SubjectKindUser, "user", s.User != nil)
	member(flowcontrolv1.SubjectKindGroup, "group", s.Group != nil)
	member(flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil)
	required := func(name string, value string) {
		if value == "" {
			errs = append(errs, field.Required(path.Child(name, "name"), ""))
		}
	}
	if s.User != nil {
		required("user", s.User.Name)
	}
	if s.Group != nil {
		required("group", s.Group.Name)
	}
	if s.ServiceAccount != nil {
		required("serviceAccount", s.ServiceAccount.Name)
		if s.ServiceAccount.Namespace == "" {
			errs = append(errs, field.Required(path.Child("serviceAccount", "namespace"), "must specify namespace for service account"))
		}
	}
	return errs
}
