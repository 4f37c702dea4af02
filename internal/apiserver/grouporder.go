package apiserver

import (
	"cmp"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"skiff/internal/apiserver/aggregate"
)

// groupOrder puts groups and their versions in the order in which discovery
// lists them, by which clients resolve short names.
type groupOrder struct {
	groups   map[string]int32
	versions map[string]map[string]int32
}

func newGroupOrder() *groupOrder {
	return &groupOrder{groups: map[string]int32{}, versions: map[string]map[string]int32{}}
}

func (o *groupOrder) add(gv schema.GroupVersion, p aggregate.Priority) {
	o.groups[gv.Group] = max(o.groups[gv.Group], p.Group)
	if o.versions[gv.Group] == nil {
		o.versions[gv.Group] = map[string]int32{}
	}
	o.versions[gv.Group][gv.Version] = p.Version
}

func (o *groupOrder) sorted() (groups []string, versions map[string][]string) {
	versions = make(map[string][]string, len(o.groups))
	for g, of := range o.versions {
		groups = append(groups, g)
		for v := range of {
			versions[g] = append(versions[g], v)
		}
		slices.SortFunc(versions[g], func(a, b string) int {
			return cmp.Or(cmp.Compare(of[b], of[a]), version.CompareKubeAwareVersionStrings(b, a))
		})
	}
	slices.SortFunc(groups, func(a, b string) int {
		return cmp.Or(cmp.Compare(o.groups[b], o.groups[a]), strings.Compare(a, b))
	})
	return groups, versions
}

// extensionDocs describes a group version that another server answers, in both
// forms, by the list that it gave.
func extensionDocs(e *aggregate.Extension) (*metav1.APIResourceList, apidiscoveryv2.APIVersionDiscovery) {
	list, stale := e.Resources()
	agg := apidiscoveryv2.APIVersionDiscovery{Version: e.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
	if stale {
		agg.Freshness = apidiscoveryv2.DiscoveryFreshnessStale
	}
	if list == nil {
		return &metav1.APIResourceList{GroupVersion: e.GroupVersion.String()}, agg
	}
	subs := map[string][]apidiscoveryv2.APISubresourceDiscovery{}
	for _, r := range list.APIResources {
		if parent, name, ok := strings.Cut(r.Name, "/"); ok {
			subs[parent] = append(subs[parent], apidiscoveryv2.APISubresourceDiscovery{Subresource: name, ResponseKind: kindIn(e, &r), Verbs: r.Verbs})
		}
	}
	for _, r := range list.APIResources {
		if strings.Contains(r.Name, "/") {
			continue
		}
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		agg.Resources = append(agg.Resources, apidiscoveryv2.APIResourceDiscovery{
			Resource: r.Name, SingularResource: r.SingularName, Scope: scope, Verbs: r.Verbs, ShortNames: r.ShortNames,
			Categories: r.Categories, ResponseKind: kindIn(e, &r), Subresources: subs[r.Name],
		})
	}
	return list, agg
}

// kindIn is the kind of a listed resource, which may be of another group
// version than the list's.
func kindIn(e *aggregate.Extension, r *metav1.APIResource) *metav1.GroupVersionKind {
	gvk := &metav1.GroupVersionKind{Group: e.Group, Version: e.Version, Kind: r.Kind}
	if r.Version != "" {
		gvk.Group, gvk.Version = r.Group, r.Version
	}
	return gvk
}

// entityTag identifies the content of a discovery document.
func entityTag(list *apidiscoveryv2.APIGroupDiscoveryList) string {
	data, err := json.Marshal(list)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%q", fmt.Sprintf("%X", sha512.Sum512(data)))
}
