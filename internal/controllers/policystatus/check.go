package policystatus

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	celgo "github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/openapi"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
)

// maxKinds is how many kinds of a rule are looked at.
const maxKinds = 10

// kinds returns those that the rules name. Rules with a wildcard name none: an
// expression cannot fit everything.
func (r *reconciler) kinds(m *admissionregistrationv1.MatchResources) []schema.GroupVersionKind {
	if m == nil {
		return nil
	}
	var all []schema.GroupVersionKind
	for _, rule := range m.ResourceRules {
		if slices.Contains(rule.APIGroups, "*") || slices.Contains(rule.APIVersions, "*") {
			continue
		}
		n := 0
		for _, group := range rule.APIGroups {
			for _, v := range rule.APIVersions {
				for _, resource := range rule.Resources {
					if strings.ContainsAny(resource, "*/") || n == maxKinds {
						continue
					}
					found, err := r.Client.RESTMapper().KindFor(schema.GroupVersionResource{Group: group, Version: v, Resource: resource})
					if err == nil {
						n++
						all = append(all, found)
					}
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b schema.GroupVersionKind) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Version, b.Version), strings.Compare(a.Kind, b.Kind))
	})
	return slices.Compact(all)
}

// declare returns the kind's type; it is nil if nothing is known of what is in
// such objects.
func declare(schemas resolver.SchemaResolver, kind schema.GroupVersionKind) (*apiservercel.DeclType, error) {
	s, err := schemas.ResolveSchema(kind)
	if err != nil {
		return nil, fmt.Errorf("the schema of %s: %w", kind, err)
	}
	t := common.SchemaDeclType(&openapi.Schema{Schema: s}, true)
	if t == nil {
		return nil, nil
	}
	return t.MaybeAssignTypeName("policy." + kind.Kind), nil
}

// checker compiles expressions for several kinds of objects.
type checker struct {
	hasParams bool
	params    *apiservercel.DeclType
	kinds     []schema.GroupVersionKind
	envs      []*celgo.Env
}

// add makes the checker look at a kind of objects, too.
func (c *checker) add(kind schema.GroupVersionKind, object *apiservercel.DeclType) error {
	var declared []*apiservercel.DeclType
	typeOf := func(t *apiservercel.DeclType) *celgo.Type {
		if t == nil {
			return celgo.DynType
		}
		if !slices.Contains(declared, t) {
			declared = append(declared, t)
		}
		return t.CelType()
	}
	options := []celgo.EnvOption{
		celgo.Variable("object", typeOf(object)), celgo.Variable("oldObject", typeOf(object)),
		celgo.Variable("request", celgo.DynType), celgo.Variable("namespaceObject", celgo.DynType),
		celgo.Variable("variables", celgo.DynType),
		celgo.Variable("authorizer", library.AuthorizerType), celgo.Variable("authorizer.requestResource", library.ResourceCheckType),
	}
	if c.hasParams {
		options = append(options, celgo.Variable("params", typeOf(c.params)))
	}
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: options, DeclTypes: declared,
	})
	if err != nil {
		return fmt.Errorf("the types of %s: %w", kind, err)
	}
	env, err := set.Env(environment.StoredExpressions)
	if err != nil {
		return fmt.Errorf("the types of %s: %w", kind, err)
	}
	c.kinds, c.envs = append(c.kinds, kind), append(c.envs, env)
	return nil
}

// warning says for which kinds the expression is wrong, and why.
func (c *checker) warning(expression string) string {
	var parts []string
	for i, env := range c.envs {
		if _, issues := env.Compile(expression); issues != nil && issues.Err() != nil {
			parts = append(parts, fmt.Sprintf("%v: %s\n", c.kinds[i], issues))
		}
	}
	return strings.Join(parts, "\n")
}
