// Package rbac decides by Roles and ClusterRoles, and their bindings.
//
// Bindings are indexed by subject, so that a request looks only at those that
// concern its user. The index follows the objects' events; a request reads it
// under a shared lock.
package rbac

import (
	"context"
	"fmt"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/authz/follow"
	"skiff/internal/identity"
)

// Authorizer implements authz.Authorizer. Make it with New.
type Authorizer struct {
	mu struct {
		sync.RWMutex
		// roles holds the rules of Roles, and of ClusterRoles at namespace "".
		roles map[key][]rbacv1.PolicyRule
		// grants holds the bindings that name a subject, by namespace ("" for
		// ClusterRoleBindings).
		grants map[subject]map[string][]grant
	}
}

// key names a Role, or with no namespace a ClusterRole.
type key struct{ namespace, name string }

// subject is a user or a group. Service accounts are users by their user name.
type subject struct {
	group bool
	name  string
}

// grant is one subject of one binding. The reason that it gives for allowing
// is made once, since it is the same for every request.
type grant struct {
	binding *binding
	reason  string
}

// binding is what RoleBinding and ClusterRoleBinding have in common; namespace
// is empty for the latter.
type binding struct {
	namespace, name string
	role            rbacv1.RoleRef
	subjects        []rbacv1.Subject
}

// New returns an authorizer that knows no roles yet.
func New() *Authorizer {
	a := &Authorizer{}
	a.mu.roles = map[key][]rbacv1.PolicyRule{}
	a.mu.grants = map[subject]map[string][]grant{}
	return a
}

// Follow makes the authorizer follow the roles and bindings in c, and returns
// when it knows those that are there now.
func (a *Authorizer) Follow(ctx context.Context, c follow.Informers) error {
	roles, err := follow.Objects(ctx, c, &rbacv1.Role{},
		func(_, r *rbacv1.Role) { a.setRole(key{r.Namespace, r.Name}, r.Rules) },
		func(r *rbacv1.Role) { a.dropRole(key{r.Namespace, r.Name}) })
	if err != nil {
		return err
	}
	clusterRoles, err := follow.Objects(ctx, c, &rbacv1.ClusterRole{},
		func(_, r *rbacv1.ClusterRole) { a.setRole(key{"", r.Name}, r.Rules) },
		func(r *rbacv1.ClusterRole) { a.dropRole(key{"", r.Name}) })
	if err != nil {
		return err
	}
	bindings, err := follow.Objects(ctx, c, &rbacv1.RoleBinding{},
		func(old, b *rbacv1.RoleBinding) { a.setBinding(fromRoleBinding(old), fromRoleBinding(b)) },
		func(b *rbacv1.RoleBinding) { a.setBinding(fromRoleBinding(b), nil) })
	if err != nil {
		return err
	}
	clusterBindings, err := follow.Objects(ctx, c, &rbacv1.ClusterRoleBinding{},
		func(old, b *rbacv1.ClusterRoleBinding) {
			a.setBinding(fromClusterRoleBinding(old), fromClusterRoleBinding(b))
		},
		func(b *rbacv1.ClusterRoleBinding) { a.setBinding(fromClusterRoleBinding(b), nil) })
	if err != nil {
		return err
	}
	return follow.Wait(ctx, roles, clusterRoles, bindings, clusterBindings)
}

func fromRoleBinding(b *rbacv1.RoleBinding) *binding {
	if b == nil {
		return nil
	}
	return &binding{b.Namespace, b.Name, b.RoleRef, b.Subjects}
}

func fromClusterRoleBinding(b *rbacv1.ClusterRoleBinding) *binding {
	if b == nil {
		return nil
	}
	return &binding{"", b.Name, b.RoleRef, b.Subjects}
}

func (a *Authorizer) setRole(k key, rules []rbacv1.PolicyRule) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.roles[k] = rules
}

func (a *Authorizer) dropRole(k key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.mu.roles, k)
}

// setBinding replaces old by b; either may be nil.
func (a *Authorizer) setBinding(old, b *binding) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old != nil {
		a.forgetLocked(old)
	}
	if b == nil {
		return
	}
	a.forgetLocked(b)
	for _, s := range b.subjects {
		who, ok := b.subjectOf(&s)
		if !ok {
			continue
		}
		byNamespace := a.mu.grants[who]
		if byNamespace == nil {
			byNamespace = map[string][]grant{}
			a.mu.grants[who] = byNamespace
		}
		byNamespace[b.namespace] = append(byNamespace[b.namespace], grant{b, b.reason(&s)})
	}
}

// forgetLocked drops what the index holds of the binding; a.mu must be held.
func (a *Authorizer) forgetLocked(b *binding) {
	for _, s := range b.subjects {
		who, _ := b.subjectOf(&s)
		byNamespace := a.mu.grants[who]
		var kept []grant
		for _, g := range byNamespace[b.namespace] {
			if g.binding.name != b.name {
				kept = append(kept, g)
			}
		}
		if len(kept) > 0 {
			byNamespace[b.namespace] = kept
			continue
		}
		delete(byNamespace, b.namespace)
		if len(byNamespace) == 0 {
			delete(a.mu.grants, who)
		}
	}
}

// subjectOf returns whom s means; a service account without a namespace is one
// of the binding's own namespace.
func (b *binding) subjectOf(s *rbacv1.Subject) (subject, bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return subject{name: s.Name}, true
	case rbacv1.GroupKind:
		return subject{group: true, name: s.Name}, true
	case rbacv1.ServiceAccountKind:
		if namespace := b.accountNamespace(s); namespace != "" {
			return subject{name: identity.ServiceAccountPrefix + namespace + ":" + s.Name}, true
		}
	}
	return subject{}, false
}

func (b *binding) accountNamespace(s *rbacv1.Subject) string {
	if s.Namespace != "" {
		return s.Namespace
	}
	return b.namespace
}

// reason says why a request of s is allowed, in upstream's words.
func (b *binding) reason(s *rbacv1.Subject) string {
	kind, name, who := "ClusterRoleBinding", b.name, s.Name
	if b.namespace != "" {
		kind, name = "RoleBinding", b.name+"/"+b.namespace
	}
	if s.Kind == rbacv1.ServiceAccountKind {
		who += "/" + b.accountNamespace(s)
	}
	return fmt.Sprintf("RBAC: allowed by %s %q of %s %q to %s %q", kind, name, b.role.Kind, b.role.Name, s.Kind, who)
}

// Authorize implements authz.Authorizer.
func (a *Authorizer) Authorize(_ context.Context, attrs *authz.Attributes) (authz.Decision, string, error) {
	var reason string
	var unresolved []error
	a.visit(attrs.User, attrs.Namespace, func(g *grant, rules []rbacv1.PolicyRule, err error) bool {
		if err != nil {
			unresolved = append(unresolved, err)
			return true
		}
		for i := range rules {
			if RuleAllows(&rules[i], attrs) {
				reason = g.reason
				return false
			}
		}
		return true
	})
	if reason != "" {
		return authz.Allow, reason, nil
	}
	if len(unresolved) > 0 {
		reason = fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(unresolved))
	}
	return authz.NoOpinion, reason, nil
}

// visit calls yield with the rules of each binding that concerns the user in
// the namespace, until it returns false.
func (a *Authorizer) visit(u *identity.User, namespace string, yield func(*grant, []rbacv1.PolicyRule, error) bool) {
	if u == nil {
		return
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	in := func(namespace string) bool {
		if !a.visitLocked(subject{name: u.Name}, namespace, yield) {
			return false
		}
		for _, group := range u.Groups {
			if !a.visitLocked(subject{group: true, name: group}, namespace, yield) {
				return false
			}
		}
		return true
	}
	if in("") && namespace != "" {
		in(namespace)
	}
}

func (a *Authorizer) visitLocked(s subject, namespace string, yield func(*grant, []rbacv1.PolicyRule, error) bool) bool {
	grants := a.mu.grants[s][namespace]
	for i := range grants {
		rules, err := a.rulesLocked(grants[i].binding.role, namespace)
		if !yield(&grants[i], rules, err) {
			return false
		}
	}
	return true
}

func (a *Authorizer) rulesLocked(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	k := key{name: ref.Name}
	switch ref.Kind {
	case "Role":
		k.namespace = namespace
	case "ClusterRole":
	default:
		return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
	}
	rules, ok := a.mu.roles[k]
	if !ok {
		return nil, apierrors.NewNotFound(rbacv1.Resource(strings.ToLower(ref.Kind)), ref.Name)
	}
	return rules, nil
}
