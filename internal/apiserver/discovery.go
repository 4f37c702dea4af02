package apiserver

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"skiff/internal/apis"
	"skiff/internal/apiserver/aggregate"
	"skiff/internal/apiserver/verbs"
)

// discoveryCache keeps the documents of one generation of resources and
// extensions.
type discoveryCache struct {
	mu         sync.Mutex
	generation int64
	// revision is that of the extensions.
	revision int64
	docs     *discoveryDocs
}

type discoveryDocs struct {
	groups     []metav1.APIGroup
	resources  map[schema.GroupVersion]*metav1.APIResourceList
	aggregated map[bool]*apidiscoveryv2.APIGroupDiscoveryList // by "is the core group"
	// tags are the aggregated documents' entity tags.
	tags map[bool]string
	// stale are the group versions whose server does not answer now.
	stale map[schema.GroupVersion]bool
}

func (s *Server) discover() *discoveryDocs {
	generation, _ := s.Verbs.Generation()
	revision, extensions := s.Extensions.Extensions()
	s.discovery.mu.Lock()
	defer s.discovery.mu.Unlock()
	if s.discovery.docs == nil || s.discovery.generation != generation || s.discovery.revision != revision {
		s.metrics.discovery.Inc()
		s.discovery.docs = buildDiscovery(s.Verbs.Resources(), extensions)
		s.discovery.generation, s.discovery.revision = generation, revision
	}
	return s.discovery.docs
}

func buildDiscovery(resources []*verbs.Resource, extensions []*aggregate.Extension) *discoveryDocs {
	byVersion := map[schema.GroupVersion][]*verbs.Version{}
	for _, r := range resources {
		for v := range r.Served() {
			byVersion[v.GroupVersion()] = append(byVersion[v.GroupVersion()], v)
		}
	}
	order := newGroupOrder()
	for gv, served := range byVersion {
		p, _ := aggregate.PriorityOf(gv, served[0].Resource().Custom != nil)
		order.add(gv, p)
	}
	remote := map[schema.GroupVersion]*aggregate.Extension{}
	for _, e := range extensions {
		remote[e.GroupVersion] = e
		order.add(e.GroupVersion, e.Priority)
	}
	groups, versions := order.sorted()
	d := &discoveryDocs{resources: map[schema.GroupVersion]*metav1.APIResourceList{}, aggregated: map[bool]*apidiscoveryv2.APIGroupDiscoveryList{
		true: {}, false: {},
	}, tags: map[bool]string{}, stale: map[schema.GroupVersion]bool{}}
	for _, g := range groups {
		group := metav1.APIGroup{Name: g}
		agg := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g}}
		for _, v := range versions[g] {
			gv := schema.GroupVersion{Group: g, Version: v}
			group.Versions = append(group.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: v})
			list, aggVersion := versionDocs(gv, byVersion[gv])
			if e := remote[gv]; e != nil {
				list, aggVersion = extensionDocs(e)
				if aggVersion.Freshness == apidiscoveryv2.DiscoveryFreshnessStale {
					d.stale[gv] = true
				}
			}
			d.resources[gv] = list
			agg.Versions = append(agg.Versions, aggVersion)
		}
		group.PreferredVersion = group.Versions[0]
		if g != "" {
			d.groups = append(d.groups, group)
		}
		list := d.aggregated[g == ""]
		list.Items = append(list.Items, agg)
	}
	for core, list := range d.aggregated {
		d.tags[core] = entityTag(list)
	}
	return d
}

// versionDocs describes one group version in both forms.
func versionDocs(gv schema.GroupVersion, served []*verbs.Version) (*metav1.APIResourceList, apidiscoveryv2.APIVersionDiscovery) {
	slices.SortFunc(served, func(a, b *verbs.Version) int {
		return strings.Compare(a.Resource().Names.Resource, b.Resource().Names.Resource)
	})
	list := &metav1.APIResourceList{GroupVersion: gv.String(), APIResources: []metav1.APIResource{}}
	if gv.Group == "" {
		list.Kind = listGVK.Kind // as upstream, without a version
	}
	agg := apidiscoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
	for _, v := range served {
		r := v.Resource()
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		main := metav1.APIResource{
			Name: r.Names.Resource, SingularName: r.Singular, Namespaced: r.Namespaced, Kind: v.Kind,
			Verbs: resourceVerbs(r), ShortNames: r.ShortNames, Categories: r.Categories,
		}
		if r.Collection != nil {
			main.StorageVersionHash = storageHash(r.Resource)
		}
		list.APIResources = append(list.APIResources, main)
		entry := apidiscoveryv2.APIResourceDiscovery{
			Resource: r.Names.Resource, SingularResource: r.Singular, Scope: scope, Verbs: resourceVerbs(r),
			ShortNames: r.ShortNames, Categories: r.Categories, ResponseKind: responseKind(v, v.GVK()),
		}
		for _, sub := range subresources(v) {
			a := metav1.APIResource{Name: r.Names.Resource + "/" + sub.name, Namespaced: r.Namespaced, Kind: sub.gvk.Kind, Verbs: sub.verbs}
			if sub.gvk.GroupVersion() != gv {
				a.Group, a.Version = sub.gvk.Group, sub.gvk.Version
			}
			list.APIResources = append(list.APIResources, a)
			entry.Subresources = append(entry.Subresources, apidiscoveryv2.APISubresourceDiscovery{
				Subresource: sub.name, ResponseKind: responseKind(v, sub.gvk), Verbs: sub.verbs,
			})
		}
		agg.Resources = append(agg.Resources, entry)
	}
	return list, agg
}

// responseKind is what a path of v answers with. As with upstream, the group
// version is left out where it is the path's own, except of custom resources.
func responseKind(v *verbs.Version, gvk schema.GroupVersionKind) *metav1.GroupVersionKind {
	if v.Resource().Custom == nil && gvk.GroupVersion() == v.GroupVersion() {
		return &metav1.GroupVersionKind{Kind: gvk.Kind}
	}
	return &metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
}

func resourceVerbs(r *verbs.Resource) []string {
	if r.Custom != nil && r.Custom.Terminating() {
		return []string{"delete", "deletecollection", "get", "list", "watch"}
	}
	return r.ServedVerbs()
}

type subresourceDoc struct {
	name  string
	gvk   schema.GroupVersionKind
	verbs []string
}

func subresources(v *verbs.Version) []subresourceDoc {
	r := v.Resource()
	var out []subresourceDoc
	for _, sub := range r.Subresources {
		d := subresourceDoc{sub.Name, sub.Kind, sub.Verbs}
		if d.gvk.Kind == "" {
			d.gvk = v.GVK()
		}
		if d.verbs == nil {
			d.verbs = []string{}
			switch {
			case sub.Prepare != nil:
				d.verbs = apis.EditVerbs
			case sub.Create != nil:
				d.verbs = []string{"create"}
			}
		}
		out = append(out, d)
	}
	if v.Has("status") {
		out = append(out, subresourceDoc{"status", v.GVK(), apis.EditVerbs})
	}
	if v.Has("scale") {
		out = append(out, subresourceDoc{"scale", scaleGVK, apis.EditVerbs})
	}
	slices.SortFunc(out, func(a, b subresourceDoc) int { return strings.Compare(a.name, b.name) })
	return out
}

// storageHash lets clients notice that the storage version changed.
func storageHash(r *apis.Resource) string {
	sum := sha256.Sum256([]byte(r.Hub.Group + "/" + r.Hub.Version + "/" + r.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

var (
	listGVK = schema.GroupVersionKind{Version: "v1", Kind: "APIResourceList"}
	aggGVK  = apidiscoveryv2.SchemeGroupVersion.WithKind("APIGroupDiscoveryList")
)

const discoveryKind = "APIGroupDiscoveryList"

func aggregatedOffer(m *mediaType) bool {
	return m.As == "" || (m.As == discoveryKind && m.Group == "apidiscovery.k8s.io" && m.Version == "v2")
}

// serveDiscoveryPath answers the paths that tell which groups, versions and
// resources there are.
func (s *Server) serveDiscoveryPath(w http.ResponseWriter, r *http.Request, info *requestInfo) bool {
	parts := strings.Split(strings.Trim(info.Path, "/"), "/")
	root, rest := parts[0], parts[1:]
	if root != "api" && root != "apis" {
		return false
	}
	docs := s.discover()
	var err error
	switch {
	case root == "api" && len(rest) == 0:
		err = s.serveCore(w, r, docs)
	case root == "apis" && len(rest) == 0:
		err = serveGroups(w, r, docs, info.Path == "/apis")
	case root == "apis" && len(rest) == 1:
		i := slices.IndexFunc(docs.groups, func(g metav1.APIGroup) bool { return g.Name == rest[0] })
		if i < 0 {
			return false
		}
		err = writePlain(w, r, &docs.groups[i], schema.GroupVersionKind{Version: "v1", Kind: "APIGroup"})
	default:
		gv, malformed := schema.ParseGroupVersion(strings.Join(rest, "/"))
		list := docs.resources[gv]
		if malformed != nil || list == nil && !s.builtIn(gv.Group) {
			return false
		}
		err = serveVersion(w, r, list)
	}
	if err != nil {
		writeError(w, r, err)
	}
	return true
}

// serveCore answers /api, the versions of the group without a name.
func (s *Server) serveCore(w http.ResponseWriter, r *http.Request, docs *discoveryDocs) error {
	if err := askedPlainly(r); err != nil {
		return err
	}
	m, err := negotiate(r, aggregatedOffer)
	if err != nil {
		return err
	}
	if m.As != "" {
		docs.writeAggregated(w, r, m, true)
		return nil
	}
	writeObject(w, r, m, http.StatusOK, &metav1.APIVersions{
		TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, // as upstream, without a version
		Versions: []string{"v1"},
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{
			{ClientCIDR: "0.0.0.0/0", ServerAddress: s.Address},
		},
	}, schema.GroupVersionKind{Version: "v1", Kind: "APIVersions"})
	return nil
}

// serveGroups answers /apis, the groups; aggregated says whether it also offers
// all that they have.
func serveGroups(w http.ResponseWriter, r *http.Request, docs *discoveryDocs, aggregated bool) error {
	offers := plainOnly
	if aggregated {
		offers = aggregatedOffer
	}
	m, err := negotiate(r, offers)
	if err != nil {
		return err
	}
	if m.As != "" {
		docs.writeAggregated(w, r, m, false)
		return nil
	}
	writeObject(w, r, m, http.StatusOK, &metav1.APIGroupList{Groups: docs.groups}, schema.GroupVersionKind{Version: "v1", Kind: "APIGroupList"})
	return nil
}

// writeAggregated writes all groups, versions and resources, below /api or /apis.
func (d *discoveryDocs) writeAggregated(w http.ResponseWriter, r *http.Request, m *mediaType, core bool) {
	tag := d.tags[core]
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", "public")
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeObject(w, r, m, http.StatusOK, d.aggregated[core], aggGVK)
}

// serveVersion answers the path of a version with its resources; list is nil if
// there are none.
func serveVersion(w http.ResponseWriter, r *http.Request, list *metav1.APIResourceList) error {
	if list == nil {
		return notFound()
	}
	if err := askedPlainly(r); err != nil {
		return err
	}
	return writePlain(w, r, list, listGVK)
}

// askedPlainly refuses what is not asked with GET, or wants none of the media types
// that there are.
func askedPlainly(r *http.Request) error {
	if r.Method != http.MethodGet {
		return noMethod(r.Method)
	}
	return produced(r, servedMedia(r.Context()))
}

func writePlain(w http.ResponseWriter, r *http.Request, obj runtime.Object, gvk schema.GroupVersionKind) error {
	m, err := negotiate(r, plainOnly)
	if err != nil {
		return err
	}
	writeObject(w, r, m, http.StatusOK, obj, gvk)
	return nil
}

// rootPaths lists everything that can be asked for below /.
func (s *Server) rootPaths() []string {
	docs := s.discover()
	paths := []string{"/api", "/apis", "/apis/", "/healthz", "/livez", "/readyz", "/metrics", "/metrics/slis", "/statusz", "/flagz", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/version"}
	for _, g := range docs.groups {
		paths = append(paths, "/apis/"+g.Name)
	}
	for gv := range docs.resources {
		if gv.Group == "" {
			paths = append(paths, "/api/"+gv.Version)
		} else {
			paths = append(paths, "/apis/"+gv.String())
		}
	}
	for _, path := range []string{"healthz", "livez", "readyz"} {
		for _, c := range s.healthChecks(path) {
			paths = append(paths, "/"+path+"/"+c.name)
		}
	}
	for p := range s.Handlers {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// PreferredResources returns what is served, each resource in its group's
// preferred version or, where that lacks it, in the newest that has it. Group
// versions whose server does not answer are missing, and named in the error.
func (s *Server) PreferredResources() ([]*metav1.APIResourceList, error) {
	docs := s.discover()
	var out []*metav1.APIResourceList
	for _, group := range append([]metav1.APIGroup{{Versions: []metav1.GroupVersionForDiscovery{{Version: "v1"}}}}, docs.groups...) {
		seen := map[string]bool{}
		for _, v := range group.Versions {
			gv := schema.GroupVersion{Group: group.Name, Version: v.Version}
			if docs.stale[gv] || docs.resources[gv] == nil {
				continue
			}
			list := &metav1.APIResourceList{GroupVersion: gv.String()}
			for _, r := range docs.resources[gv].APIResources {
				if !seen[r.Name] {
					seen[r.Name] = true
					list.APIResources = append(list.APIResources, r)
				}
			}
			out = append(out, list)
		}
	}
	if len(docs.stale) == 0 {
		return out, nil
	}
	failed := &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{}}
	for gv := range docs.stale {
		failed.Groups[gv] = fmt.Errorf("stale GroupVersion discovery: %v", gv)
	}
	return out, failed
}
