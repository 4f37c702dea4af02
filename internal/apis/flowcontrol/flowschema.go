package flowcontrol

import (
	"context"
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
	"skiff/internal/identity"
)

func flowSchema() *apis.Resource {
	docs := flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()
	return apis.Of[*flowcontrolv1.FlowSchema]{
		Names: apis.Names{
			Group: "flowcontrol.apiserver.k8s.io", Resource: "flowschemas", Singular: "flowschema", Kind: "FlowSchema",
		},
		Version:          "v1",
		New:              func() *flowcontrolv1.FlowSchema { return &flowcontrolv1.FlowSchema{} },
		NewList:          func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} },
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsNew},
		HasStatus:        true,
		Generation:       true,
		Default:          func(s *flowcontrolv1.FlowSchema) { fill.Value(&s.Spec.MatchingPrecedence, defaultPrecedence) },
		Validate:         validateFlowSchema,
		Reset:            map[string][]string{"status": {"metadata"}},
		PrepareStatusUpdate: func(_ context.Context, o, old *flowcontrolv1.FlowSchema) {
			keepMetadata(&o.ObjectMeta, &old.ObjectMeta)
		},
		ValidateStatusUpdate: func(_ context.Context, s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
			return validateConditions(s.Status.Conditions, func(c *flowcontrolv1.FlowSchemaCondition) string { return string(c.Type) })
		},
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
	if m := s.DistinguisherMethod; m != nil {
		known := []flowcontrolv1.FlowDistinguisherMethodType{flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType}
		if !slices.Contains(known, m.Type) {
			errs = append(errs, field.NotSupported(path.Child("distinguisherMethod", "type"), m, known))
		}
	}
	level := path.Child("priorityLevelConfiguration", "name")
	if name := s.PriorityLevelConfiguration.Name; name == "" {
		errs = append(errs, field.Required(level, "must reference a priority level"))
	} else {
		errs = append(errs, checks.Name(name, level, utilvalidation.IsDNS1123Subdomain)...)
	}
	for i := range s.Rules {
		errs = append(errs, validateFlowRule(&s.Rules[i], path.Child("rules").Index(i))...)
	}
	if fixed, ok := fixedSchema(f.Name); ok && !equality.Semantic.DeepEqual(*s, fixed) {
		errs = append(errs, field.Invalid(path, *s, fmt.Sprintf("spec of '%s' must equal the fixed value", f.Name)))
	}
	return errs
}

// fixedSchema returns the spec of a schema that nobody may change, since
// administrators and strangers to every other schema depend on it.
func fixedSchema(name string) (spec flowcontrolv1.FlowSchemaSpec, ok bool) {
	all := []string{"*"}
	everything := func(groups ...string) []flowcontrolv1.PolicyRulesWithSubjects {
		r := flowcontrolv1.PolicyRulesWithSubjects{
			ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: all, APIGroups: all, Resources: all, ClusterScope: true, Namespaces: all}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: all, NonResourceURLs: all}},
		}
		for _, g := range groups {
			r.Subjects = append(r.Subjects, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: g}})
		}
		return []flowcontrolv1.PolicyRulesWithSubjects{r}
	}
	spec.PriorityLevelConfiguration.Name = name
	switch name {
	case flowcontrolv1.FlowSchemaNameExempt:
		spec.MatchingPrecedence = 1
		spec.Rules = everything(identity.GroupMasters)
	case flowcontrolv1.FlowSchemaNameCatchAll:
		spec.MatchingPrecedence = maxPrecedence
		spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType}
		spec.Rules = everything(identity.GroupUnauthenticated, identity.GroupAuthenticated)
	default:
		return spec, false
	}
	return spec, true
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
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(&r.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		rule, at := &r.NonResourceRules[i], path.Child("nonResourceRules").Index(i)
		errs = append(errs, validateVerbs(rule.Verbs, at.Child("verbs"))...)
		at = at.Child("nonResourceURLs")
		errs = append(errs, validateList(rule.NonResourceURLs, at, "nonResourceURLs must contain at least one value", "non-resource URLs")...)
		for k, url := range rule.NonResourceURLs {
			if problem := urlProblem(url); problem != "" && !slices.Contains(rule.NonResourceURLs, "*") {
				errs = append(errs, field.Invalid(at.Index(k), url, problem))
			}
		}
	}
	return errs
}

func validateResourceRule(r *flowcontrolv1.ResourcePolicyRule, path *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, path.Child("verbs"))
	errs = append(errs, validateList(r.APIGroups, path.Child("apiGroups"), "resource rules must supply at least one api group", "api groups")...)
	errs = append(errs, validateList(r.Resources, path.Child("resources"), "resource rules must supply at least one resource", "resources")...)
	if len(r.Namespaces) == 0 && r.ClusterScope {
		return errs
	}
	at := path.Child("namespaces")
	errs = append(errs, validateList(r.Namespaces, at, "resource rules that are not cluster scoped must supply at least one namespace", "namespaces")...)
	if slices.Contains(r.Namespaces, "*") {
		return errs
	}
	for i, name := range r.Namespaces {
		for _, msg := range utilvalidation.IsDNS1123Label(name) {
			errs = append(errs, field.Invalid(at.Index(i), name, "each member of this list must be '*' or a DNS-1123 label; "+msg))
		}
	}
	return errs
}

// validateList demands values, of which "*" stands alone.
func validateList(values []string, path *field.Path, missing, what string) field.ErrorList {
	switch {
	case len(values) == 0:
		return field.ErrorList{field.Required(path, missing)}
	case len(values) > 1 && slices.Contains(values, "*"):
		return field.ErrorList{field.Invalid(path, values, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

func validateVerbs(verbs []string, path *field.Path) field.ErrorList {
	errs := validateList(verbs, path, "verbs must contain at least one value", "verbs")
	known := []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}
	unknown := slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(known, v) })
	if unknown && !slices.Contains(verbs, "*") {
		errs = append(errs, field.NotSupported(path, verbs, known))
	}
	return errs
}

// urlProblem says what is wrong with a path, or "".
func urlProblem(path string) string {
	switch {
	case path == "":
		return "must not be empty"
	case path[0] != '/':
		return "must start with slash"
	case strings.Contains(path, " "):
		return "must not contain white-space"
	case strings.Contains(path, "//"):
		return "must not contain double slash"
	}
	if n := strings.Count(path, "*"); n > 1 || n == 1 && !strings.HasSuffix(path, "/*") {
		return "wildcard can only do suffix matching"
	}
	return ""
}

func validateFlowSubject(s *flowcontrolv1.Subject, path *field.Path) field.ErrorList {
	errs := checks.Supported(s.Kind, path.Child("kind"), flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser)
	if len(errs) > 0 {
		return errs
	}
	// What the kind asks for comes first, then what it forbids.
	member := func(kind flowcontrolv1.SubjectKind, name string, set bool, check func(path *field.Path) field.ErrorList) {
		switch at := path.Child(name); {
		case s.Kind == kind && !set:
			errs = slices.Insert(errs, 0, field.Required(at, name+" is required when subject kind is '"+string(kind)+"'"))
		case s.Kind == kind:
			errs = append(check(at), errs...)
		case set:
			errs = append(errs, field.Forbidden(at, name+" is forbidden when subject kind is not '"+string(kind)+"'"))
		}
	}
	named := func(name string, path *field.Path) field.ErrorList {
		if name == "" {
			return field.ErrorList{field.Required(path.Child("name"), "")}
		}
		return nil
	}
	member(flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil, func(path *field.Path) field.ErrorList {
		return validateAccount(s.ServiceAccount, path)
	})
	member(flowcontrolv1.SubjectKindUser, "user", s.User != nil, func(path *field.Path) field.ErrorList {
		return named(s.User.Name, path)
	})
	member(flowcontrolv1.SubjectKindGroup, "group", s.Group != nil, func(path *field.Path) field.ErrorList {
		return named(s.Group.Name, path)
	})
	return errs
}

func validateAccount(a *flowcontrolv1.ServiceAccountSubject, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if a.Name != "*" {
		errs = checks.RequiredName(a.Name, path.Child("name"), utilvalidation.IsDNS1123Subdomain)
	}
	if a.Namespace == "" {
		return append(errs, field.Required(path.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, checks.Name(a.Namespace, path.Child("namespace"), utilvalidation.IsDNS1123Label)...)
}

// validateConditions demands conditions of different types.
func validateConditions[T any](conditions []T, typeOf func(*T) string) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i := range conditions {
		at, t := field.NewPath("status", "conditions").Index(i).Child("type"), typeOf(&conditions[i])
		if seen[t] {
			errs = append(errs, field.Duplicate(at, t))
		}
		seen[t] = true
		if t == "" {
			errs = append(errs, field.Required(at, ""))
		}
	}
	return errs
}
