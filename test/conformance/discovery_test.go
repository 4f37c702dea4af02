package conformance

import (
	"encoding/json"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// builtin is a resource of each group.
var builtin = map[schema.GroupVersion]string{
	{Version: "v1"}: "namespaces",
	{Group: "admissionregistration.k8s.io", Version: "v1"}: "validatingwebhookconfigurations",
	{Group: "apiextensions.k8s.io", Version: "v1"}:         "customresourcedefinitions",
	{Group: "apiregistration.k8s.io", Version: "v1"}:       "apiservices",
	{Group: "apps", Version: "v1"}:                         "deployments",
	{Group: "authentication.k8s.io", Version: "v1"}:        "tokenreviews",
	{Group: "authorization.k8s.io", Version: "v1"}:         "selfsubjectaccessreviews",
	{Group: "autoscaling", Version: "v1"}:                  "horizontalpodautoscalers",
	{Group: "autoscaling", Version: "v2"}:                  "horizontalpodautoscalers",
	{Group: "batch", Version: "v1"}:                        "jobs",
	{Group: "certificates.k8s.io", Version: "v1"}:          "certificatesigningrequests",
	{Group: "coordination.k8s.io", Version: "v1"}:          "leases",
	{Group: "discovery.k8s.io", Version: "v1"}:             "endpointslices",
	{Group: "events.k8s.io", Version: "v1"}:                "events",
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: "flowschemas",
	{Group: "networking.k8s.io", Version: "v1"}:            "ingresses",
	{Group: "node.k8s.io", Version: "v1"}:                  "runtimeclasses",
	{Group: "policy", Version: "v1"}:                       "poddisruptionbudgets",
	{Group: "rbac.authorization.k8s.io", Version: "v1"}:    "clusterroles",
	{Group: "resource.k8s.io", Version: "v1"}:              "resourceclaims",
	{Group: "scheduling.k8s.io", Version: "v1"}:            "priorityclasses",
	{Group: "storage.k8s.io", Version: "v1"}:               "csinodes",
}

// aggregated reads one of the two documents that hold everything.
func (s *server) aggregated(path string) map[schema.GroupVersionResource]bool {
	s.Helper()
	const media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	code, header, body := s.request("GET", path, "", "Accept", media)
	var all apidiscoveryv2.APIGroupDiscoveryList
	s.ok(json.Unmarshal([]byte(body), &all))
	if code != 200 || header.Get("Content-Type") != media || all.Kind != "APIGroupDiscoveryList" {
		s.Errorf("%s: %d %s %s", path, code, header.Get("Content-Type"), all.Kind)
	}
	out := map[schema.GroupVersionResource]bool{}
	for _, g := range all.Items {
		for _, v := range g.Versions {
			for _, r := range v.Resources {
				out[schema.GroupVersionResource{Group: g.Name, Version: v.Version, Resource: r.Resource}] = true
			}
		}
	}
	return out
}

func (s *server) grouped() (*metav1.APIGroupList, map[schema.GroupVersion]*metav1.APIResourceList) {
	s.Helper()
	client, ok := s.kube.Discovery().(discovery.AggregatedDiscoveryInterface)
	if !ok {
		s.Fatal("the client knows nothing of aggregated discovery")
	}
	groups, resources, failed, err := client.GroupsAndMaybeResources()
	s.ok(err)
	if len(failed) > 0 || resources == nil {
		s.Fatalf("discovery lacks %v", failed)
	}
	return groups, resources
}

func lists(list *metav1.APIResourceList, name string) bool {
	return list != nil && slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == name })
}

var aggregatedDiscovery = entries{
	"should support raw aggregated discovery endpoint Accept headers": func(s *server) {
		served := s.aggregated("/apis")
		for r := range s.aggregated("/api") {
			served[r] = true
		}
		for gv, resource := range builtin {
			if !served[gv.WithResource(resource)] {
				s.Errorf("discovery has no %s in %s", resource, gv)
			}
		}
	},
	"should support raw aggregated discovery request for CRDs": func(s *server) {
		crd := s.define("testcrds", "")
		s.until("it is in the document", func() bool {
			return s.aggregated("/apis")[schema.GroupVersionResource{Group: crd.Spec.Group, Version: "v1", Resource: "testcrds"}]
		})
	},
	"should support aggregated discovery interface": func(s *server) {
		groups, resources := s.grouped()
		for gv, resource := range builtin {
			if !lists(resources[gv], resource) {
				s.Errorf("discovery has no %s in %s", resource, gv)
			}
			if !slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool {
				return g.Name == gv.Group && slices.ContainsFunc(g.Versions, func(v metav1.GroupVersionForDiscovery) bool { return v.Version == gv.Version })
			}) {
				s.Errorf("discovery has no %s", gv)
			}
		}
	},
	"should support aggregated discovery interface for CRDs": func(s *server) {
		crd := s.define("testcrds", "")
		s.until("the client finds it", func() bool {
			_, resources := s.grouped()
			return lists(resources[schema.GroupVersion{Group: crd.Spec.Group, Version: "v1"}], "testcrds")
		})
	},
}

var plainDiscovery = entries{
	"should validate PreferredVersion for each APIGroup": func(s *server) {
		groups, err := s.kube.Discovery().ServerGroups()
		s.ok(err)
		for _, g := range groups.Groups {
			if g.Name == "" {
				continue
			}
			var one metav1.APIGroup
			_, _, body := s.request("GET", "/apis/"+g.Name, "")
			s.ok(json.Unmarshal([]byte(body), &one))
			if one.Name != g.Name || len(one.Versions) == 0 || !slices.Contains(one.Versions, one.PreferredVersion) ||
				one.PreferredVersion.GroupVersion != g.Name+"/"+one.PreferredVersion.Version || one.PreferredVersion != g.PreferredVersion {
				s.Errorf("%s: %+v", g.Name, one)
			}
		}
	},
	"should locate the groupVersion and a resource within each APIGroup": func(s *server) {
		for gv, resource := range builtin {
			list, err := s.kube.Discovery().ServerResourcesForGroupVersion(gv.String())
			s.ok(err)
			if list.GroupVersion != gv.String() || !lists(list, resource) {
				s.Errorf("%s: %v", gv, list)
			}
		}
	},
}

var serverVersion = entries{
	"should find the server version": func(s *server) {
		v, err := s.kube.Discovery().ServerVersion()
		s.ok(err)
		if v.Major != "1" || v.Minor != "36" || !strings.HasPrefix(v.GitVersion, "v1.36.") {
			s.Errorf("the version: %+v", v)
		}
	},
}

var tables = entries{
	"should return a 406 for a backend which does not implement metadata": func(s *server) {
		code, _, body := s.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
			`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"namespace":"default","verb":"get","resource":"pods"}}}`,
			"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
		if code != 406 || !strings.Contains(body, `"NotAcceptable"`) {
			s.Errorf("%d %s", code, body)
		}
	},
}
