package flowcontrol

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/identity"
)

// schema is a FlowSchema whose level exists.
type schema struct {
	name          string
	uid           types.UID
	level         *level
	distinguisher flowcontrolv1.FlowDistinguisherMethodType
	rules         []flowcontrolv1.PolicyRulesWithSubjects
	hash          uint64
	metrics       *flowMetrics
}

func (c *Controller) newSchema(f *flowcontrolv1.FlowSchema, l *level) *schema {
	s := &schema{name: f.Name, uid: f.UID, level: l, rules: f.Spec.Rules, hash: maphash.String(c.seed, "schema:"+f.Name)}
	if f.Spec.DistinguisherMethod != nil {
		s.distinguisher = f.Spec.DistinguisherMethod.Type
	}
	s.metrics = c.metrics.flow(l.name, f.Name)
	return s
}

// byPrecedence orders FlowSchemas as they are asked.
func byPrecedence(a, b *flowcontrolv1.FlowSchema) int {
	return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), cmp.Compare(a.Name, b.Name))
}

func (s *schema) matches(r *Request) bool {
	for i := range s.rules {
		rule := &s.rules[i]
		if matchesSubject(rule.Subjects, r.User) && matchesRule(rule, r) {
			return true
		}
	}
	return false
}

func matchesSubject(subjects []flowcontrolv1.Subject, u *identity.User) bool {
	for i := range subjects {
		switch s := &subjects[i]; s.Kind {
		case flowcontrolv1.SubjectKindUser:
			if s.User != nil && (s.User.Name == flowcontrolv1.NameAll || s.User.Name == u.Name) {
				return true
			}
		case flowcontrolv1.SubjectKindGroup:
			if s.Group != nil && (s.Group.Name == flowcontrolv1.NameAll || u.InGroup(s.Group.Name)) {
				return true
			}
		case flowcontrolv1.SubjectKindServiceAccount:
			if s.ServiceAccount != nil && isAccount(u.Name, s.ServiceAccount) {
				return true
			}
		}
	}
	return false
}

func isAccount(user string, account *flowcontrolv1.ServiceAccountSubject) bool {
	rest, ok := strings.CutPrefix(user, identity.ServiceAccountPrefix)
	if !ok {
		return false
	}
	namespace, name, _ := strings.Cut(rest, ":")
	return namespace == account.Namespace && (account.Name == flowcontrolv1.NameAll || account.Name == name)
}

func matchesRule(rule *flowcontrolv1.PolicyRulesWithSubjects, r *Request) bool {
	if r.Resource == "" {
		return slices.ContainsFunc(rule.NonResourceRules, func(n flowcontrolv1.NonResourcePolicyRule) bool {
			return contains(n.Verbs, r.Verb, flowcontrolv1.VerbAll) && slices.ContainsFunc(n.NonResourceURLs, func(url string) bool { return matchesPath(url, r.Path) })
		})
	}
	for i := range rule.ResourceRules {
		rr := &rule.ResourceRules[i]
		inScope := rr.ClusterScope
		if r.Namespace != "" {
			inScope = contains(rr.Namespaces, r.Namespace, flowcontrolv1.NamespaceEvery)
		}
		if inScope && contains(rr.Verbs, r.Verb, flowcontrolv1.VerbAll) && contains(rr.APIGroups, r.Group, flowcontrolv1.APIGroupAll) && matchesResource(rr.Resources, r) {
			return true
		}
	}
	return false
}

func contains(list []string, value, all string) bool {
	for _, s := range list {
		if s == value || s == all {
			return true
		}
	}
	return false
}

func matchesResource(list []string, r *Request) bool {
	for _, s := range list {
		if s == flowcontrolv1.ResourceAll {
			return true
		}
		resource, subresource, _ := strings.Cut(s, "/")
		if resource == r.Resource && subresource == r.Subresource {
			return true
		}
	}
	return false
}

func matchesPath(url, path string) bool {
	if url == flowcontrolv1.NonResourceAll || url == path {
		return true
	}
	prefix, ok := strings.CutSuffix(url, "*")
	return ok && strings.HasPrefix(path, prefix)
}
