package conformance

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// definition is a definition of a resource in a group of the test's own, with
// the schema (YAML; none means that everything is allowed) in all versions, of
// which the first is stored. Without versions there is v1.
func (s *server) definition(plural, schema string, versions ...string) *apiextensionsv1.CustomResourceDefinition {
	s.Helper()
	props := &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}
	if schema != "" {
		props = &apiextensionsv1.JSONSchemaProps{}
		s.ok(yaml.UnmarshalStrict([]byte(schema), props))
	}
	if len(versions) == 0 {
		versions = []string{"v1"}
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	crd.Spec.Group = s.ns + ".example.com"
	crd.Spec.Scope = apiextensionsv1.NamespaceScoped
	singular := strings.TrimSuffix(plural, "s")
	kind := strings.ToUpper(singular[:1]) + singular[1:]
	crd.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Singular: singular, Kind: kind, ListKind: kind + "List"}
	crd.Name = plural + "." + crd.Spec.Group
	for i, v := range versions {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{
			Name: v, Served: true, Storage: i == 0, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: props.DeepCopy()},
		})
	}
	return crd
}

// establish makes the definition and waits until it is established.
func (s *server) establish(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinition {
	s.Helper()
	s.create(crd)
	s.until(crd.Name+" is established", func() bool {
		s.ok(s.get(crd, crd.Name))
		return established(crd)
	})
	return crd
}

func established(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	})
}

func (s *server) define(plural, schema string, versions ...string) *apiextensionsv1.CustomResourceDefinition {
	s.Helper()
	return s.establish(s.definition(plural, schema, versions...))
}

// custom is the definition's resource in a version, in the test's namespace if
// it is in one.
func (s *server) custom(crd *apiextensionsv1.CustomResourceDefinition, version string) dynamic.ResourceInterface {
	r := s.dynamic.Resource(schema.GroupVersionResource{Group: crd.Spec.Group, Version: version, Resource: crd.Spec.Names.Plural})
	if crd.Spec.Scope == apiextensionsv1.ClusterScoped {
		return r
	}
	return r.Namespace(s.ns)
}

// instance is an object of the definition with further fields (JSON).
func instance(crd *apiextensionsv1.CustomResourceDefinition, version, name, fields string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	text := fmt.Sprintf(`{"apiVersion":"%s/%s","kind":"%s","metadata":{"name":"%s"}`, crd.Spec.Group, version, crd.Spec.Names.Kind, name)
	if fields != "" {
		text += "," + fields
	}
	if err := u.UnmarshalJSON([]byte(text + "}")); err != nil {
		panic(err)
	}
	return u
}

// make creates an instance.
func (s *server) make(crd *apiextensionsv1.CustomResourceDefinition, version, name, fields string) *unstructured.Unstructured {
	s.Helper()
	u, err := s.custom(crd, version).Create(s.ctx, instance(crd, version, name, fields), metav1.CreateOptions{})
	s.ok(err)
	return u
}

var definitions = entries{
	"Simple CustomResourceDefinition creating/deleting custom resource definition objects works": func(s *server) {
		crd := s.define("boats", "")
		s.delete(crd)
		s.gone(crd)
	},
	"Simple CustomResourceDefinition listing custom resource definition objects works": func(s *server) {
		specs := map[string]apiextensionsv1.CustomResourceDefinitionSpec{}
		for i := range 10 {
			crd := s.definition(fmt.Sprintf("boat%ds", i), "")
			crd.Labels = map[string]string{"of": s.ns}
			specs[s.establish(crd).Name] = crd.Spec
		}
		other := s.define("others", "")
		var list apiextensionsv1.CustomResourceDefinitionList
		mine := client.MatchingLabels{"of": s.ns}
		s.list(&list, mine)
		if len(list.Items) != len(specs) {
			s.Errorf("listed %d of %d", len(list.Items), len(specs))
		}
		for _, crd := range list.Items {
			if !reflect.DeepEqual(crd.Spec, specs[crd.Name]) {
				s.Errorf("%s is listed with %+v, not %+v", crd.Name, crd.Spec, specs[crd.Name])
			}
		}
		s.ok(s.api.DeleteAllOf(s.ctx, &apiextensionsv1.CustomResourceDefinition{}, mine))
		s.until("all are gone", func() bool {
			s.list(&list, mine)
			return len(list.Items) == 0
		})
		s.ok(s.get(other, other.Name))
	},
	"Simple CustomResourceDefinition getting/updating/patching custom resource definition status sub-resource works": func(s *server) {
		crd := s.define("boats", "")
		resource := s.dynamic.Resource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions"))
		messages := func(conditions []apiextensionsv1.CustomResourceDefinitionCondition) (out []string) {
			for _, c := range conditions {
				out = append(out, c.Message)
			}
			return out
		}
		u, err := resource.Get(s.ctx, crd.Name, metav1.GetOptions{}, "status")
		s.ok(err)
		var status apiextensionsv1.CustomResourceDefinition
		s.ok(runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &status))
		if !reflect.DeepEqual(status.Spec, crd.Spec) {
			s.Errorf("the status's spec: %+v, not %+v", status.Spec, crd.Spec)
		}
		// A condition without type and status is stored all the same.
		s.changeStatus(&status, crd.Name, func() {
			status.Status.Conditions = append(status.Status.Conditions, apiextensionsv1.CustomResourceDefinitionCondition{Message: "updated"})
		})
		if !slices.Contains(messages(status.Status.Conditions), "updated") {
			s.Errorf("updated: %+v", status.Status.Conditions)
		}
		u, err = resource.Patch(s.ctx, crd.Name, types.JSONPatchType, []byte(`[{"op":"add","path":"/status/conditions","value":[{"message":"patched"}]}]`), metav1.PatchOptions{}, "status")
		s.ok(err)
		s.ok(runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &status))
		if !slices.Equal(messages(status.Status.Conditions), []string{"patched"}) {
			s.Errorf("patched: %+v", status.Status.Conditions)
		}
	},
	"should include custom resource definition resources in discovery documents": func(s *server) {
		s.served("apiextensions.k8s.io", "v1", "customresourcedefinitions", "customresourcedefinitions/status")
	},
	"custom resource defaulting for requests and from storage works": func(s *server) {
		crd := s.define("boats", "{type: object, properties: {a: {type: string}, b: {type: string}}}")
		s.make(crd, "v1", "one", "")
		change := func(patch string) {
			s.Helper()
			s.ok(s.api.Patch(s.ctx, crd, client.RawPatch(types.JSONPatchType, []byte(patch))))
		}
		// defaulted waits for a field; what else the object has must be as it is.
		defaulted := func(name string, want string) {
			s.Helper()
			var got string
			s.until(name+" is defaulted", func() bool {
				u, err := s.custom(crd, "v1").Get(s.ctx, name, metav1.GetOptions{})
				s.ok(err)
				got = fmt.Sprintf("%v %v", field(u, "a"), field(u, "b"))
				return got == want
			})
		}
		change(`[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/a/default","value":"A"}]`)
		defaulted("one", "A <nil>")
		if u := s.make(crd, "v1", "two", ""); field(u, "a") != "A" {
			s.Errorf("created with %v", u.Object)
		}
		change(`[{"op":"remove","path":"/spec/versions/0/schema/openAPIV3Schema/properties/a/default"},
			{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/b/default","value":"B"}]`)
		defaulted("two", "A B")
		defaulted("one", "<nil> B")
	},
}

var crdWatch = entries{
	"CustomResourceDefinition Watch watch on custom resource definition objects": func(s *server) {
		crd := s.definition("noxus", "")
		crd.Spec.Scope = apiextensionsv1.ClusterScoped
		s.establish(crd)
		resource := s.custom(crd, "v1")
		seen := map[string]events{}
		for _, name := range []string{"a", "b"} {
			w, err := resource.Watch(s.ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name, TimeoutSeconds: ptr.To[int64](600)})
			s.ok(err)
			s.Cleanup(w.Stop)
			seen[name] = events{s, w}
		}
		// Each watch shows its own object alone, or the order would be another.
		for _, name := range []string{"a", "b"} {
			if u := s.make(crd, "v1", name, ""); u.GetUID() == "" || u.GetAPIVersion() != crd.Spec.Group+"/v1" || u.GetKind() != "Noxu" {
				s.Errorf("created %v", u.Object)
			}
		}
		for _, name := range []string{"a", "b"} {
			_, err := resource.Patch(s.ctx, name, types.JSONPatchType, []byte(`[{"op":"add","path":"/dummy","value":"test"}]`), metav1.PatchOptions{})
			s.ok(err)
		}
		for _, name := range []string{"a", "b"} {
			s.ok(resource.Delete(s.ctx, name, metav1.DeleteOptions{}))
		}
		for name, w := range seen {
			for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
				if got := w.next(want); got.GetName() != name {
					s.Errorf("the watch of %s shows %s", name, got.GetName())
				}
			}
		}
	},
}

// published are the entries about OpenAPI; what kubectl makes of it, test/api
// shows.
var published = entries{
	"works for CRD with validation schema": func(s *server) {
		crd := s.define("foos", foo)
		s.documented(crd, "v1", foo)
		s.withdrawn(crd, "v1")
	},
	"works for CRD without validation schema": func(s *server) {
		crd := s.define("foos", "")
		s.documented(crd, "v1", "type: object")
		s.make(crd, "v1", "any", `"a":{"b":[{"c":"d"}]}`)
		s.withdrawn(crd, "v1")
	},
	"works for CRD preserving unknown fields at the schema root": func(s *server) {
		crd := s.define("foos", preservedAtRoot)
		s.documented(crd, "v1", "")
		s.make(crd, "v1", "any", `"a":{"b":[{"c":"d"}]}`)
		s.withdrawn(crd, "v1")
	},
	"works for CRD preserving unknown fields in an embedded object": func(s *server) {
		crd := s.define("foos", preservedBelow)
		s.documented(crd, "v1", "")
		if u := s.make(crd, "v1", "any", `"spec":{"a":null,"b":[{"c":"d"}]}`); field(u, "spec", "b") == nil {
			s.Errorf("it was pruned: %v", u.Object)
		}
		s.withdrawn(crd, "v1")
	},
	"works for multiple CRDs of different groups": func(s *server) {
		one, two := s.definition("foos", foo), s.definition("waldos", waldo, "v1beta1")
		two.Spec.Group = "other." + two.Spec.Group
		two.Name = "waldos." + two.Spec.Group
		s.establish(one)
		s.establish(two)
		s.documented(two, "v1beta1", waldo)
		s.documented(one, "v1", foo)
		s.withdrawn(one, "v1")
		s.withdrawn(two, "v1beta1")
	},
	"works for multiple CRDs of same group but different versions": func(s *server) {
		crd := s.define("foos", foo, "v2", "v3")
		s.documented(crd, "v3", foo)
		s.documented(crd, "v2", foo)
		s.withdrawn(crd, "v2", "v3")
		one, two := s.define("foos", foo, "v4"), s.define("waldos", waldo, "v5")
		s.documented(two, "v5", waldo)
		s.documented(one, "v4", foo)
		s.withdrawn(one, "v4")
		s.withdrawn(two, "v5")
	},
	"works for multiple CRDs of same group and version but different kinds": func(s *server) {
		one, two := s.define("foos", foo, "v6"), s.define("waldos", waldo, "v6")
		s.documented(two, "v6", waldo)
		s.documented(one, "v6", foo)
		s.withdrawn(one, "v6")
		s.documented(two, "v6", waldo)
		s.withdrawn(two, "v6")
	},
	"updates the published spec when one version gets renamed": func(s *server) {
		crd := s.define("foos", foo, "v2", "v3")
		s.documented(crd, "v3", foo)
		s.documented(crd, "v2", foo)
		s.ok(s.api.Patch(s.ctx, crd, client.RawPatch(types.JSONPatchType, []byte(
			`[{"op":"test","path":"/spec/versions/1/name","value":"v3"},{"op":"replace","path":"/spec/versions/1/name","value":"v4"}]`))))
		s.documented(crd, "v4", foo)
		s.undocumented(crd, "v3")
		s.documented(crd, "v2", foo)
		s.withdrawn(crd, "v2", "v4")
	},
	"removes definition from spec when one version gets changed to not be served": func(s *server) {
		crd := s.define("foos", foo, "v5", "v6alpha1")
		s.documented(crd, "v6alpha1", foo)
		s.documented(crd, "v5", foo)
		s.change(crd, crd.Name, func() { crd.Spec.Versions[1].Served = false })
		s.undocumented(crd, "v6alpha1")
		s.documented(crd, "v5", foo)
		s.withdrawn(crd, "v5")
	},
}

// documents reads the definition of a kind from OpenAPI v2.
func (s *server) documents(crd *apiextensionsv1.CustomResourceDefinition, version string) map[string]any {
	s.Helper()
	code, header, body := s.request("GET", "/openapi/v2", "")
	var all struct{ Definitions map[string]map[string]any }
	if err := json.Unmarshal([]byte(body), &all); err != nil || code != 200 || !strings.Contains(header.Get("Content-Type"), "json") || header.Get("ETag") == "" {
		s.Fatalf("/openapi/v2: %d %v %v", code, header, err)
	}
	groups := strings.Split(crd.Spec.Group, ".")
	slices.Reverse(groups)
	return all.Definitions[strings.Join(groups, ".")+"."+version+"."+crd.Spec.Names.Kind]
}

// documented waits until OpenAPI has the schema, but for what every object has.
// Without a schema, any will do.
func (s *server) documented(crd *apiextensionsv1.CustomResourceDefinition, version, schema string) {
	s.Helper()
	var got, want map[string]any
	s.ok(yaml.Unmarshal([]byte(schema), &want))
	s.until(fmt.Sprintf("%s %s is in OpenAPI as it should be", crd.Name, version), func() bool {
		if got = s.documents(crd, version); got == nil {
			return false
		}
		delete(got, "x-kubernetes-group-version-kind")
		if p, ok := got["properties"].(map[string]any); ok {
			for _, name := range []string{"apiVersion", "kind", "metadata"} {
				delete(p, name)
			}
			if len(p) == 0 {
				delete(got, "properties")
			}
		}
		return want == nil || reflect.DeepEqual(got, want)
	})
}

func (s *server) undocumented(crd *apiextensionsv1.CustomResourceDefinition, versions ...string) {
	s.Helper()
	for _, v := range versions {
		s.until(fmt.Sprintf("%s %s is not in OpenAPI", crd.Name, v), func() bool { return s.documents(crd, v) == nil })
	}
}

// withdrawn deletes the definition and waits until OpenAPI has none of its versions.
func (s *server) withdrawn(crd *apiextensionsv1.CustomResourceDefinition, versions ...string) {
	s.Helper()
	s.delete(crd)
	s.undocumented(crd, versions...)
	s.gone(crd)
	if _, err := s.custom(crd, versions[0]).List(s.ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		s.Errorf("%s is served: %v", crd.Name, err)
	}
}

const foo = `
description: Foo for testing
type: object
properties:
  spec:
    description: Specification of Foo
    type: object
    properties:
      bars:
        description: Bars and their specs.
        type: array
        items:
          type: object
          required: [name]
          properties:
            name: {description: Name of Bar., type: string}
            age: {description: Age of Bar., type: string}
            feeling: {description: How Bar feels., type: string, enum: [Great, Down]}
            bazs: {description: List of Bazs., type: array, items: {type: string}}
  status:
    description: Status of Foo
    type: object
    properties:
      bars:
        description: Bars and their statuses.
        type: array
        items:
          type: object
          properties:
            name: {description: Name of Bar., type: string}
            available: {description: Whether the Bar is there., type: boolean}
            quxType: {description: The type of qux., type: string, pattern: in-tree|out-of-tree}
`

const waldo = `
description: Waldo for testing
type: object
properties:
  spec:
    description: Specification of Waldo
    type: object
    properties:
      dummy: {description: Dummy property., type: object}
  status:
    description: Status of Waldo
    type: object
    properties:
      bars: {description: Bars and their statuses., type: array, items: {type: object}}
`

const preservedAtRoot = `
description: unknown fields at the root
type: object
x-kubernetes-preserve-unknown-fields: true
properties:
  spec: {description: Specification, type: object, properties: {dummy: {description: Dummy property., type: object}}}
  status: {description: Status, type: object, properties: {bars: {description: Bars., type: array, items: {type: object}}}}
`

const preservedBelow = `
description: unknown fields in a nested object
type: object
properties:
  spec:
    description: Specification
    type: object
    x-kubernetes-preserve-unknown-fields: true
    properties: {dummy: {description: Dummy property., type: object}}
  status: {description: Status, type: object, properties: {bars: {description: Bars., type: array, items: {type: object}}}}
`
