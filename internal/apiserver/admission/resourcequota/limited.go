package resourcequota

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"skiff/internal/apis/quota"
	"skiff/internal/apiserver/admission"
)

// Configuration is upstream's apiserver.config.k8s.io/v1
// ResourceQuotaConfiguration: what may be consumed only where a quota covers
// it.
type Configuration struct {
	APIVersion       string    `json:"apiVersion,omitempty"`
	Kind             string    `json:"kind,omitempty"`
	LimitedResources []Limited `json:"limitedResources"`
}

// Limited is one kind of objects of which something is limited: what their
// usage is called by, or which scopes they are in.
type Limited struct {
	APIGroup      string                                     `json:"apiGroup,omitempty"`
	Resource      string                                     `json:"resource"`
	MatchContains []string                                   `json:"matchContains,omitempty"`
	MatchScopes   []corev1.ScopedResourceSelectorRequirement `json:"matchScopes,omitempty"`
}

// covered refuses a write that consumes something limited which no quota
// covers; delta is what it consumes in addition.
func (p *Plugin) covered(a *admission.Attributes, quotas []corev1.ResourceQuota, delta corev1.ResourceList) error {
	missing, scopes := map[string]bool{}, []corev1.ScopedResourceSelectorRequirement{}
	for i := range p.limited {
		l := &p.limited[i]
		if l.APIGroup != a.Resource.Group || l.Resource != a.Resource.Resource {
			continue
		}
		for name, amount := range delta {
			matches := func(part string) bool { return strings.Contains(string(name), part) }
			if amount.Sign() > 0 && slices.ContainsFunc(l.MatchContains, matches) {
				missing[string(name)] = true
			}
		}
		for _, scope := range l.MatchScopes {
			if quota.Holds(&scope, a.Object) {
				scopes = append(scopes, scope)
			}
		}
	}
	if len(missing) == 0 && len(scopes) == 0 {
		return nil
	}
	for i := range quotas {
		q := &quotas[i]
		for _, need := range quota.Scopes(q) {
			scopes = slices.DeleteFunc(scopes, func(s corev1.ScopedResourceSelectorRequirement) bool {
				return s.ScopeName == need.ScopeName && quota.Holds(&need, a.Object)
			})
		}
		if quota.InScope(q, a.Object) {
			maps.DeleteFunc(missing, func(name string, _ bool) bool { _, ok := q.Status.Hard[corev1.ResourceName(name)]; return ok })
		}
	}
	switch {
	case len(missing) > 0:
		return a.Forbidden("insufficient quota to consume: %s", strings.Join(slices.Sorted(maps.Keys(missing)), ","))
	case len(scopes) > 0:
		return a.Forbidden("%w", fmt.Errorf("insufficient quota to match these scopes: %v", scopes))
	}
	return nil
}
