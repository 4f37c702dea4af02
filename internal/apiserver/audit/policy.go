package audit

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/yaml"

	"skiff/internal/apiserver/authz"
)

// Policy says what is recorded. The first rule that matches a request counts;
// what no rule matches is not recorded.
type Policy struct{ rules []auditv1.PolicyRule }

// LoadPolicy reads a policy file (audit.k8s.io/v1 Policy).
func LoadPolicy(file string) (*Policy, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("audit policy: %w", err)
	}
	p, err := ParsePolicy(data)
	if err != nil {
		return nil, fmt.Errorf("audit policy %s: %w", file, err)
	}
	return p, nil
}

// ParsePolicy reads a policy.
func ParsePolicy(data []byte) (*Policy, error) {
	var p auditv1.Policy
	if err := yaml.UnmarshalStrict(data, &p); err != nil {
		return nil, err
	}
	if p.APIVersion != auditv1.SchemeGroupVersion.String() || p.Kind != "Policy" {
		return nil, fmt.Errorf("it is a %q %q, it must be of apiVersion %s and kind Policy", p.APIVersion, p.Kind, auditv1.SchemeGroupVersion)
	}
	if len(p.Rules) == 0 {
		return nil, fmt.Errorf("it has no rules: add at least one, e.g. {level: Metadata}")
	}
	if errs := validatePolicy(&p); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		r.OmitStages = append(r.OmitStages, p.OmitStages...)
		if r.OmitManagedFields == nil {
			r.OmitManagedFields = &p.OmitManagedFields
		}
	}
	return &Policy{p.Rules}, nil
}

func validatePolicy(p *auditv1.Policy) field.ErrorList {
	levels := []auditv1.Level{auditv1.LevelNone, auditv1.LevelMetadata, auditv1.LevelRequest, auditv1.LevelRequestResponse}
	stages := []auditv1.Stage{auditv1.StageRequestReceived, auditv1.StageResponseStarted, auditv1.StageResponseComplete, auditv1.StagePanic}
	var errs field.ErrorList
	checkStages := func(given []auditv1.Stage, path *field.Path) {
		for i, s := range given {
			if !slices.Contains(stages, s) {
				errs = append(errs, field.Invalid(path.Index(i), string(s), fmt.Sprintf("allowed stages are %v", stages)))
			}
		}
	}
	checkStages(p.OmitStages, field.NewPath("omitStages"))
	for i := range p.Rules {
		r, path := &p.Rules[i], field.NewPath("rules").Index(i)
		switch {
		case r.Level == "":
			errs = append(errs, field.Required(path.Child("level"), ""))
		case !slices.Contains(levels, r.Level):
			errs = append(errs, field.NotSupported(path.Child("level"), r.Level, levels))
		}
		checkStages(r.OmitStages, path.Child("omitStages"))
		if len(r.NonResourceURLs) > 0 && (len(r.Resources) > 0 || len(r.Namespaces) > 0) {
			errs = append(errs, field.Invalid(path.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
		}
		for k, url := range r.NonResourceURLs {
			if star := strings.Index(url, "*"); url != "*" && (!strings.HasPrefix(url, "/") || star >= 0 && star != len(url)-1) {
				errs = append(errs, field.Invalid(path.Child("nonResourceURLs").Index(k), url, "must begin with a '/', and a wildcard '*' must be its last character"))
			}
		}
		for k, group := range r.Resources {
			if len(group.ResourceNames) > 0 && len(group.Resources) == 0 {
				errs = append(errs, field.Invalid(path.Child("resources").Index(k).Child("resourceNames"), group.ResourceNames, "using resourceNames requires at least one resource"))
			}
		}
	}
	return errs
}

// match returns the rule for a request.
func (p *Policy) match(a *authz.Attributes) *auditv1.PolicyRule {
	for i := range p.rules {
		if matches(&p.rules[i], a) {
			return &p.rules[i]
		}
	}
	return &auditv1.PolicyRule{Level: auditv1.LevelNone}
}

func matches(r *auditv1.PolicyRule, a *authz.Attributes) bool {
	if len(r.Users) > 0 && (a.User == nil || !slices.Contains(r.Users, a.User.Name)) {
		return false
	}
	if len(r.UserGroups) > 0 && (a.User == nil || !slices.ContainsFunc(r.UserGroups, a.User.InGroup)) {
		return false
	}
	if len(r.Verbs) > 0 && !slices.Contains(r.Verbs, a.Verb) {
		return false
	}
	switch {
	case len(r.Namespaces) > 0 || len(r.Resources) > 0:
		return a.IsResource() && matchesResource(r, a)
	case len(r.NonResourceURLs) > 0:
		return !a.IsResource() && slices.ContainsFunc(r.NonResourceURLs, func(url string) bool {
			prefix, open := strings.CutSuffix(url, "*")
			return url == a.Path || open && strings.HasPrefix(a.Path, prefix)
		})
	}
	return true
}

func matchesResource(r *auditv1.PolicyRule, a *authz.Attributes) bool {
	if len(r.Namespaces) > 0 && !slices.Contains(r.Namespaces, a.Namespace) {
		return false
	}
	if len(r.Resources) == 0 {
		return true
	}
	return slices.ContainsFunc(r.Resources, func(g auditv1.GroupResources) bool {
		if g.Group != a.Group && g.Group != "*" {
			return false
		}
		if len(g.Resources) == 0 {
			return true
		}
		return (len(g.ResourceNames) == 0 || slices.Contains(g.ResourceNames, a.Name)) &&
			slices.ContainsFunc(g.Resources, func(want string) bool { return matchesName(want, a.Resource, a.Subresource) })
	})
}

// matchesName knows the forms "*", "pods", "pods/log", "pods/*" and "*/log".
func matchesName(want, resource, subresource string) bool {
	if want == "*" {
		return true
	}
	wantResource, wantSub, _ := strings.Cut(want, "/")
	switch {
	case wantSub == "*":
		return wantResource == resource
	case wantResource == "*":
		return subresource != "" && wantSub == subresource
	}
	return wantResource == resource && wantSub == subresource
}
