package openapi

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"skiff/internal/apiserver/verbs"
)

// serverGroups are the group versions that only servers know.
var serverGroups = []schema.GroupVersion{
	{Group: "admission.k8s.io", Version: "v1"}, {Group: "admission.k8s.io", Version: "v1beta1"},
	{Group: "apiextensions.k8s.io", Version: "v1"}, {Group: "apiextensions.k8s.io", Version: "v1beta1"},
	{Group: "apiregistration.k8s.io", Version: "v1"}, {Group: "apiregistration.k8s.io", Version: "v1beta1"},
	{Group: "imagepolicy.k8s.io", Version: "v1alpha1"},
}

// knownTypes are the types that upstream's clients know. They are not read from
// client-go's scheme itself, which programs add their own to.
var knownTypes = sync.OnceValue(func() map[schema.GroupVersionKind]reflect.Type {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	utilruntime.Must(scheme.AddToScheme(s))
	return s.AllKnownTypes()
})

// addKnownKinds names the kinds of definitions that are no resource of the
// document: what answers are made of, and objects in objects. A type that all
// group versions have, known by being a deletion's options or a watch's event,
// is said to be of the document's group version; where there are several, and
// in documents of custom resources, of all that there are.
func (g *generator) addKnownKinds(versions []*verbs.Version) {
	own := map[schema.GroupVersion]bool{{Version: "v1"}: true}
	for _, v := range versions {
		own[v.GroupVersion()] = true
	}
	all := g.v2 || len(versions) > 0 && versions[0].Schema != nil
	unnamed := map[string]bool{} // by the name of the type alone, which is a first guess
	for name := range g.definitions.schemas {
		if g.definitions.kinds[name] == nil {
			unnamed[name[strings.LastIndex(name, ".")+1:]] = true
		}
	}
	found := map[string][]schema.GroupVersionKind{}
	for gvk, t := range knownTypes() {
		if !unnamed[t.Name()] || !all && !own[gvk.GroupVersion()] {
			continue
		}
		name := nameOf(t)
		if _, ok := g.definitions.schemas[name]; ok && g.definitions.kinds[name] == nil {
			found[name] = append(found[name], gvk)
		}
	}
	for name, kinds := range found {
		common := slices.ContainsFunc(kinds, func(k schema.GroupVersionKind) bool { return k.Kind == "DeleteOptions" || k.Kind == "WatchEvent" })
		for _, gv := range serverGroups {
			if common && (g.v2 || own[gv]) {
				kinds = append(kinds, gv.WithKind(kinds[0].Kind))
			}
		}
		slices.SortFunc(kinds, func(a, b schema.GroupVersionKind) int {
			return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Kind, b.Kind))
		})
		for _, k := range kinds {
			g.definitions.kinds[name] = append(g.definitions.kinds[name], KindOf(k))
		}
	}
}
