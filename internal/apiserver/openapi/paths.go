package openapi

import (
	"reflect"
	"slices"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/internal/apis"
	"skiff/internal/apiserver/verbs"
)

var (
	reads  = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	lists  = append(slices.Clone(reads), "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
	bodies = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	// customMedia are the serialisations of custom resources.
	customMedia = []string{"application/json", "application/yaml"}
	// customPatches are those of custom resources.
	customPatches = []string{"application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"}
	// patches are the media types of a PATCH.
	patches = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
)

// KindExtension names the kinds that a schema is of.
const KindExtension = "x-kubernetes-group-version-kind"

// describe makes the document of the given versions. In all cases it has the
// form of OpenAPI v2; v2 says whether the content must be what v2 can say.
func describe(versions []*verbs.Version, v2 bool) *spec.Swagger {
	g := &generator{
		v2:          v2,
		definitions: newDefinitions(v2, versions...),
		paths:       map[string]spec.PathItem{},
	}
	slices.SortFunc(versions, byKind)
	for _, v := range versions {
		g.add(v)
	}
	for name, kinds := range g.definitions.kinds {
		s := g.definitions.schemas[name]
		s.AddExtension(KindExtension, kinds)
		g.definitions.schemas[name] = s
	}
	doc := &spec.Swagger{SwaggerProps: header}
	doc.Paths, doc.Definitions = &spec.Paths{Paths: g.paths}, g.definitions.schemas
	return doc
}

// header is what every document begins with.
var header = spec.SwaggerProps{
	Swagger: "2.0",
	Info:    &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: "v1.36.3"}},
	SecurityDefinitions: spec.SecurityDefinitions{"BearerToken": &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
	}}},
}

type generator struct {
	v2          bool
	definitions *definitions
	paths       map[string]spec.PathItem
}

// kind returns the reference to an object's schema and notes its kind.
func (g *generator) kind(obj any, gvk schema.GroupVersionKind) spec.Schema {
	ref := g.definitions.ref(reflect.TypeOf(obj).Elem())
	name := strings.TrimPrefix(ref.Ref.String(), "#/definitions/")
	entry := KindOf(gvk)
	for _, have := range g.definitions.kinds[name] {
		if reflect.DeepEqual(have, entry) {
			return ref
		}
	}
	g.definitions.kinds[name] = append(g.definitions.kinds[name], entry)
	return ref
}

// KindOf returns one element of KindExtension.
func KindOf(gvk schema.GroupVersionKind) any {
	return map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
}

// add describes a version's paths.
func (g *generator) add(v *verbs.Version) {
	r := v.Resource()
	root := "/" + pathOf(v.GroupVersion())
	collection := root + "/" + r.Names.Resource
	if r.Namespaced {
		collection = root + "/namespaces/{namespace}/" + r.Names.Resource
	}
	o := operations{generator: g, version: v, object: g.object(v), tag: tagOf(v.GroupVersion())}
	var item spec.PathItem
	var many spec.PathItem
	for _, verb := range served(r) {
		switch verb {
		case "list":
			list := g.list(v)
			many.Get = o.operation("list", "list", &list, lists, listParameters()...)
			if r.Namespaced {
				all := spec.PathItem{}
				all.Get = o.operation("list", "list", &list, lists, listParameters()...)
				all.Get.ID += "ForAllNamespaces"
				g.paths[root+"/"+r.Names.Resource] = all
			}
		case "create":
			many.Post = o.withBody("post", "create", o.object, bodies, append(writeParameters(), validationParameter())...)
		case "deletecollection":
			many.Delete = o.withBody("deletecollection", "deleteCollection", g.kind(&metav1.DeleteOptions{}, schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}), bodies, listParameters()...)
		case "get":
			item.Get = o.operation("get", "read", &o.object, reads)
		case "update":
			item.Put = o.withBody("put", "replace", o.object, bodies, append(writeParameters(), validationParameter())...)
		case "patch":
			item.Patch = o.patch()
		case "delete":
			item.Delete = o.withBody("delete", "delete", g.kind(&metav1.DeleteOptions{}, schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}), bodies, dryRunParameter())
		}
	}
	namespace := []spec.Parameter{}
	if r.Namespaced {
		namespace = append(namespace, pathParameter("namespace"))
	}
	many.Parameters = namespace
	g.paths[collection] = many
	if item.Get == nil && item.Put == nil && item.Patch == nil && item.Delete == nil && len(r.Subresources) == 0 {
		return
	}
	item.Parameters = append(slices.Clone(namespace), pathParameter("name"))
	if item.Get != nil || item.Delete != nil {
		g.paths[collection+"/{name}"] = item
	}
	g.addSubresources(o, collection+"/{name}/", item.Parameters)
}

func (g *generator) addSubresources(o operations, prefix string, parameters []spec.Parameter) {
	r := o.version.Resource()
	edit := func(name string, object spec.Schema) {
		sub := o
		sub.object, sub.suffix = object, strings.ToUpper(name[:1])+name[1:]
		item := spec.PathItem{}
		item.Parameters = parameters
		item.Get = sub.operation("get", "read", &object, reads)
		item.Put = sub.withBody("put", "replace", object, bodies, append(writeParameters(), validationParameter())...)
		item.Patch = sub.patch()
		g.paths[prefix+name] = item
	}
	if o.version.Has("status") {
		edit("status", o.object)
	}
	if o.version.Has("scale") {
		edit("scale", g.kind(&autoscalingv1.Scale{}, autoscalingv1.SchemeGroupVersion.WithKind("Scale")))
	}
	for i := range r.Subresources {
		sub := &r.Subresources[i]
		switch {
		case sub.Edit != nil:
			edit(sub.Name, o.object)
		case sub.Create != nil && sub.New != nil:
			s := o
			s.suffix = strings.ToUpper(sub.Name[:1]) + sub.Name[1:]
			s.object = g.kind(sub.New(), sub.Kind)
			item := spec.PathItem{}
			item.Parameters = parameters
			item.Post = s.withBody("post", "create", s.object, bodies, append(writeParameters(), validationParameter())...)
			g.paths[prefix+sub.Name] = item
		}
	}
}

// object returns the reference to the schema of a version's objects.
func (g *generator) object(v *verbs.Version) spec.Schema {
	if v.Schema == nil {
		return g.kind(v.Version.New(), v.GVK())
	}
	g.definitions.ref(reflect.TypeFor[metav1.ObjectMeta]())
	name := ModelName(v.GVK())
	g.definitions.schemas[name] = *v.Schema(g.v2)
	return *spec.RefSchema("#/definitions/" + name)
}

// list returns the reference to the schema of lists of them.
func (g *generator) list(v *verbs.Version) spec.Schema {
	gvk := v.GroupVersion().WithKind(v.Resource().ListKind)
	if v.Schema == nil {
		return g.kind(v.Version.NewList(), gvk)
	}
	kind, meta := metav1.TypeMeta{}.SwaggerDoc(), metav1.PartialObjectMetadataList{}.SwaggerDoc()
	items := spec.ArrayProperty(spec.RefSchema("#/definitions/" + ModelName(v.GVK())))
	listMeta := g.definitions.ref(reflect.TypeFor[metav1.ListMeta]())
	s := (&spec.Schema{}).Typed("object", "").WithRequired("items").
		WithDescription(gvk.Kind+" is a list of "+v.Kind).
		SetProperty("apiVersion", *spec.StringProperty().WithDescription(kind["apiVersion"])).
		SetProperty("kind", *spec.StringProperty().WithDescription(kind["kind"])).
		SetProperty("metadata", *listMeta.WithDescription(meta["metadata"])).
		SetProperty("items", *items.WithDescription("List of " + v.Resource().Names.Resource + ". More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"))
	s.AddExtension(KindExtension, []any{KindOf(gvk)})
	g.definitions.schemas[ModelName(gvk)] = *s
	return *spec.RefSchema("#/definitions/" + ModelName(gvk))
}

func served(r *verbs.Resource) []string {
	if r.Verbs != nil {
		return r.Verbs
	}
	if r.Virtual == nil {
		return apis.StandardVerbs
	}
	var out []string
	if r.Virtual.Create != nil {
		out = append(out, "create")
	}
	if r.Virtual.Get != nil {
		out = append(out, "get")
	}
	if r.Virtual.List != nil {
		out = append(out, "list")
	}
	return out
}

// operations describes what can be done with one version of a resource.
type operations struct {
	*generator
	version *verbs.Version
	object  spec.Schema
	tag     string
	// suffix is the subresource's part of operation names.
	suffix string
}

// tagOf is the group version's name in operation IDs: CoreV1, appsV1.
func tagOf(gv schema.GroupVersion) string {
	group, _, _ := strings.Cut(gv.Group, ".")
	if group == "" {
		group = "core"
	}
	return group + "_" + gv.Version
}

func (o operations) operation(action, verb string, result *spec.Schema, produces []string, parameters ...spec.Parameter) *spec.Operation {
	group, version, _ := strings.Cut(o.tag, "_")
	id := verb + strings.ToUpper(group[:1]) + group[1:] + strings.ToUpper(version[:1]) + version[1:]
	if o.version.Resource().Namespaced {
		id += "Namespaced"
	}
	op := &spec.Operation{OperationProps: spec.OperationProps{ID: id + o.version.Kind + o.suffix}}
	op.Tags = []string{o.tag}
	if o.version.Schema != nil {
		produces = customMedia
	}
	op.Consumes, op.Produces, op.Schemes = []string{"*/*"}, produces, []string{"https"}
	op.Parameters = parameters
	ok := spec.Response{ResponseProps: spec.ResponseProps{Description: "OK", Schema: result}}
	op.Responses = &spec.Responses{ResponsesProps: spec.ResponsesProps{StatusCodeResponses: map[int]spec.Response{
		200: ok, 401: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}},
	}}}
	op.AddExtension("x-kubernetes-action", action)
	op.AddExtension(KindExtension, KindOf(o.version.GVK()))
	return op
}

func (o operations) withBody(action, verb string, body spec.Schema, consumes []string, parameters ...spec.Parameter) *spec.Operation {
	op := o.operation(action, verb, &o.object, reads, parameters...)
	op.Consumes = consumes
	if o.version.Schema != nil && action != "patch" {
		op.Consumes = customMedia
	}
	op.Parameters = append([]spec.Parameter{{ParamProps: spec.ParamProps{Name: "body", In: "body", Required: action != "delete" && action != "deletecollection", Schema: &body}}}, op.Parameters...)
	return op
}

func (o operations) patch() *spec.Operation {
	body := o.definitions.ref(reflect.TypeFor[metav1.Patch]())
	patches := patches
	if o.version.Schema != nil {
		patches = customPatches
	}
	force := query("force", "boolean", "Force takes over fields that other managers own (server-side apply only).")
	return o.withBody("patch", "patch", body, patches, append(writeParameters(), validationParameter(), force)...)
}

func query(name, kind, description string) spec.Parameter {
	return spec.Parameter{
		SimpleSchema: spec.SimpleSchema{Type: kind},
		ParamProps:   spec.ParamProps{Name: name, In: "query", Description: description},
		CommonValidations: spec.CommonValidations{
			UniqueItems: true,
		},
	}
}

func pathParameter(name string) spec.Parameter {
	p := query(name, "string", "the object's "+name)
	p.In, p.Required = "path", true
	return p
}

func dryRunParameter() spec.Parameter {
	return query("dryRun", "string", `"All" goes through every stage but stores nothing.`)
}

func validationParameter() spec.Parameter {
	return query("fieldValidation", "string", `What happens to unknown and duplicate fields: "Ignore", "Warn" (the default) or "Strict".`)
}

func writeParameters() []spec.Parameter {
	return []spec.Parameter{
		dryRunParameter(),
		query("fieldManager", "string", "The name under which the fields that are set are owned."),
	}
}

func listParameters() []spec.Parameter {
	return []spec.Parameter{
		query("allowWatchBookmarks", "boolean", "Asks for BOOKMARK events in a watch."),
		query("continue", "string", "The token that the last page of a list came with."),
		query("fieldSelector", "string", "Selects objects by their fields."),
		query("labelSelector", "string", "Selects objects by their labels."),
		query("limit", "integer", "The greatest number of objects in the answer."),
		query("resourceVersion", "string", "How new the answer has to be."),
		query("resourceVersionMatch", "string", "How resourceVersion is meant."),
		query("sendInitialEvents", "boolean", "Begins a watch with the present state."),
		query("timeoutSeconds", "integer", "How long the call may last."),
		query("watch", "boolean", "Streams changes instead of listing."),
	}
}
