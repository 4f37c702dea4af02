package openapi

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"path"
	"reflect"
	"slices"
	"strings"
	"unicode"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/internal/apis"
	"skiff/internal/apiserver/verbs"
)

// KindExtension names the kinds that a schema is of.
const KindExtension = "x-kubernetes-group-version-kind"

// describe makes the document of the given versions and of the paths above
// them. In all cases it has the form of OpenAPI v2; v2 says whether the content
// must be what v2 can say.
func describe(versions []*verbs.Version, above []string, v2 bool) *spec.Swagger {
	g := &generator{
		v2:          v2,
		definitions: newDefinitions(v2),
		paths:       map[string]spec.PathItem{},
	}
	for _, p := range above {
		g.addAbove(p)
	}
	slices.SortFunc(versions, byKind)
	doc := &spec.Swagger{SwaggerProps: customHeader}
	for _, v := range versions {
		g.addResource(v)
		if v.Schema == nil {
			g.addAbove(pathOf(v.GroupVersion()))
		}
	}
	if len(above) > 0 || slices.ContainsFunc(versions, func(v *verbs.Version) bool { return v.Schema == nil }) {
		doc.SwaggerProps = header
	}
	g.addKnownKinds(versions)
	for name, kinds := range g.definitions.kinds {
		s := g.definitions.schemas[name]
		s.AddExtension(KindExtension, kinds)
		g.definitions.schemas[name] = s
	}
	for p, item := range g.paths {
		g.paths[p] = withCommonParameters(item)
	}
	if v2 {
		doc.Parameters = share(g.paths)
	}
	doc.Paths, doc.Definitions = &spec.Paths{Paths: g.paths}, g.definitions.schemas
	return doc
}

// header is what documents begin with.
var header = spec.SwaggerProps{
	Swagger: "2.0",
	Info:    &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: "1.36"}},
	SecurityDefinitions: spec.SecurityDefinitions{"BearerToken": &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
	}}},
	Security: []map[string][]string{{"BearerToken": {}}},
}

// customHeader is what documents of custom resources begin with.
var customHeader = spec.SwaggerProps{
	Swagger: "2.0",
	Info:    &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes CRD Swagger", Version: "v0.1.0"}},
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

// The media types that are served and taken.
var (
	media       = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	streamMedia = []string{"application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"}
	customMedia = media[:2]
	patches     = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
	// customPatches lack the one that goes by Go types.
	customPatches = []string{"application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"}
)

// operation is one method of a path.
type operation struct {
	path, method string
	// verb and name make the operation's ID, with the group version in between.
	verb, name         string
	description        string
	consumes, produces []string
	parameters         []spec.Parameter
	result             spec.Schema
	codes              []int
	// action and kind are set for resources.
	action string
	kind   schema.GroupVersionKind
}

func (g *generator) add(o operation) {
	tag := tagOf(o.path)
	id := o.verb + tag.inID + capital(o.name)
	op := &spec.Operation{OperationProps: spec.OperationProps{
		ID: id, Description: o.description, Tags: []string{tag.name},
		Consumes: o.consumes, Produces: o.produces, Schemes: []string{"https"}, Parameters: o.parameters,
	}}
	codes := map[int]spec.Response{http.StatusUnauthorized: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}}
	for _, code := range o.codes {
		codes[code] = spec.Response{ResponseProps: spec.ResponseProps{Description: http.StatusText(code), Schema: &o.result}}
	}
	op.Responses = &spec.Responses{ResponsesProps: spec.ResponsesProps{StatusCodeResponses: codes}}
	if o.action != "" {
		op.AddExtension("x-kubernetes-action", o.action)
		op.AddExtension(KindExtension, KindOf(o.kind))
	}
	item := g.paths[o.path]
	*methodOf(&item, o.method) = op
	g.paths[o.path] = item
}

func methodOf(item *spec.PathItem, method string) **spec.Operation {
	return map[string]**spec.Operation{
		http.MethodGet: &item.Get, http.MethodPut: &item.Put, http.MethodPost: &item.Post, http.MethodDelete: &item.Delete,
		http.MethodPatch: &item.Patch, http.MethodHead: &item.Head, http.MethodOptions: &item.Options,
	}[method]
}

// operationsOf returns those that there are.
func operationsOf(item *spec.PathItem) []*spec.Operation {
	all := []*spec.Operation{item.Get, item.Put, item.Post, item.Delete, item.Patch, item.Head, item.Options}
	return slices.DeleteFunc(all, func(o *spec.Operation) bool { return o == nil })
}

// tag is what a path's group version is called.
type tag struct{ name, inID string }

func tagOf(path string) tag {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] == "api" {
		parts = append([]string{"apis", "core"}, parts[1:]...)
	}
	switch {
	case parts[0] != "apis":
		return tag{name: identifier(parts[0])}
	case len(parts) == 1:
		return tag{name: "apis"}
	}
	group := identifier(strings.TrimSuffix(parts[1], ".k8s.io"))
	t := tag{group, capital(group)}
	if len(parts) > 2 {
		t.name += "_" + parts[2]
		t.inID += capital(parts[2])
	}
	return t
}

// identifier drops what cannot be in a name, and capitalizes what follows it.
func identifier(s string) string {
	words := strings.FieldsFunc(strings.TrimLeft(s, "0123456789"), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' })
	for i, word := range words {
		if i > 0 || !strings.HasPrefix(s, word) {
			words[i] = capital(word)
		}
	}
	return strings.Join(words, "")
}

func capital(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// above are the paths that tell what is below them, or of the server itself.
// Without an answer they give a text.
var above = []struct {
	pattern, name, description string
	answer                     any
	consumes, produces         []string
}{
	{"api", "APIVersions", "get available API versions", &metav1.APIVersions{}, media, media},
	{"apis", "APIVersions", "get available API versions", &metav1.APIGroupList{}, media, media},
	{"apis/*", "APIGroup", "get information of a group", &metav1.APIGroup{}, media, media},
	{"api/*", "APIResources", "get available resources", &metav1.APIResourceList{}, media, media},
	{"apis/*/*", "APIResources", "get available resources", &metav1.APIResourceList{}, media, media},
	{"version", "CodeVersion", "get the version information for this server", &version.Info{}, media[:1], media[:1]},
	{"openid/v1/jwks", "ServiceAccountIssuerOpenIDKeyset", "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
		nil, nil, []string{"application/jwk-set+json"}},
	{".well-known/openid-configuration", "ServiceAccountIssuerOpenIDConfiguration", "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
		nil, nil, media[:1]},
}

func (g *generator) addAbove(p string) {
	for _, a := range above {
		if ok, _ := path.Match(a.pattern, p); !ok {
			continue
		}
		result := *spec.StringProperty()
		if a.answer != nil {
			result = g.definition(a.answer)
		}
		g.add(operation{
			path: "/" + p + "/", method: http.MethodGet, verb: "get", name: a.name, description: a.description,
			consumes: a.consumes, produces: a.produces, result: result, codes: []int{http.StatusOK},
		})
	}
}

// action is something that can be done with objects.
type action struct {
	method, verb string
	// description has a place for what is acted upon.
	description string
	codes       []int
	options     any
}

const useList = " deprecated: use the 'watch' parameter with a list operation instead"

var actions = map[string]action{
	"list":             {http.MethodGet, "list", "list objects of kind %s", []int{200}, metav1.ListOptions{}},
	"watchlist":        {http.MethodGet, "watch", "watch individual changes to a list of %s." + useList + ".", []int{200}, metav1.ListOptions{}},
	"watch":            {http.MethodGet, "watch", "watch changes to an object of kind %s." + useList + ", filtered to a single item with the 'fieldSelector' parameter.", []int{200}, metav1.ListOptions{}},
	"post":             {http.MethodPost, "create", "create %s", []int{200, 201, 202}, metav1.CreateOptions{}},
	"deletecollection": {http.MethodDelete, "delete", "delete collection of %s", []int{200}, metav1.ListOptions{}},
	"get":              {http.MethodGet, "read", "read %s", []int{200}, metav1.GetOptions{}},
	"put":              {http.MethodPut, "replace", "replace %s", []int{200, 201}, metav1.UpdateOptions{}},
	"patch":            {http.MethodPatch, "patch", "partially update %s", []int{200, 201}, metav1.PatchOptions{}},
	"delete":           {http.MethodDelete, "delete", "delete %s", []int{200, 202}, metav1.DeleteOptions{}},
	"connect":          {"", "connect", "connect %[2]s requests to %[1]s", []int{200}, nil},
}

// methodsOf are the methods of a connection's verbs.
var methodsOf = map[string]string{"get": http.MethodGet, "create": http.MethodPost, "update": http.MethodPut, "patch": http.MethodPatch, "delete": http.MethodDelete}

// subject is a version of a resource or a subresource of it.
type subject struct {
	*generator
	version *verbs.Version
	sub     string
	// kind is what it speaks, and object the schema of that.
	kind   schema.GroupVersionKind
	object spec.Schema
	// options are the parameters that a connection or a text is asked for with.
	options any
	// root is the group version's path, scope the rest down to the namespace.
	root, scope string
}

// addResource describes a version's paths.
func (g *generator) addResource(v *verbs.Version) {
	r := v.Resource()
	s := subject{generator: g, version: v, kind: v.GVK(), object: g.object(v), root: "/" + pathOf(v.GroupVersion()) + "/"}
	if r.Namespaced {
		s.scope = "namespaces/{namespace}/"
	}
	plural := r.Names.Resource
	many, one := s.scope+plural, s.scope+plural+"/{name}"
	watch := r.Serves("watch") && r.Custom == nil
	for _, verb := range r.ServedVerbs() {
		switch verb {
		case "list":
			paths := []string{many, plural} // the same of cluster-wide resources
			for _, p := range slices.Compact(paths) {
				s.act("list", p, "")
				if watch {
					s.act("watchlist", "watch/"+p, "")
				}
			}
		case "create":
			s.act("post", many, "")
		case "deletecollection":
			s.act("deletecollection", many, "")
		case "get":
			s.act("get", one, "")
			if watch {
				s.act("watch", "watch/"+one, "")
			}
		case "update":
			s.act("put", one, "")
		case "patch", "delete":
			s.act(verb, one, "")
		}
	}
	for _, sub := range []string{"status", "scale"} {
		if !v.Has(sub) {
			continue
		}
		of := s
		of.sub = sub
		if sub == "scale" {
			of.object = g.kind(&autoscalingv1.Scale{}, autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
			if r.Custom == nil {
				of.kind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")
			}
		}
		of.edit(one, nil)
	}
	for i := range r.Subresources {
		s.addSubresource(one, &r.Subresources[i])
	}
}

// edit describes a subresource that shows a part of the object.
func (s subject) edit(one string, some []string) {
	if some == nil {
		some = apis.EditVerbs
	}
	for _, verb := range some {
		if verb == "update" {
			verb = "put"
		}
		s.act(verb, one+"/"+s.sub, "")
	}
}

func (s subject) addSubresource(one string, sub *apis.Subresource) {
	s.sub = sub.Name
	if sub.Kind.Kind != "" {
		s.kind = sub.Kind
	}
	switch p := one + "/" + sub.Name; {
	case sub.Prepare != nil:
		s.edit(one, sub.Verbs)
	case sub.Create != nil:
		s.object = s.generator.kind(sub.New(), sub.Kind)
		s.act("post", p, "")
	case sub.Kind.Kind == "":
		s.object, s.options = *spec.StringProperty(), sub.New()
		s.act("get", p, "")
	default:
		s.object, s.options = *spec.StringProperty(), sub.New()
		for _, verb := range sub.Verbs {
			s.act("connect", p, methodsOf[verb])
		}
		// What passes all methods on has paths of its own behind it.
		if len(sub.Verbs) == len(methodsOf) {
			s.act("connect", p, http.MethodHead)
			s.act("connect", p, http.MethodOptions)
			for _, method := range append(slices.Collect(maps.Values(methodsOf)), http.MethodHead, http.MethodOptions) {
				s.act("connect", p+"/{path}", method)
			}
		}
	}
}

// act describes an action on a path below the group version's, with a method
// for those that have several.
func (s subject) act(name, p, method string) {
	a, v, custom := actions[name], s.version, s.version.Resource().Custom != nil
	method = cmp.Or(a.method, method)
	o := operation{
		path: s.root + p, method: method, verb: a.verb, name: v.Kind + capital(s.sub),
		description: a.describe(v.Kind, s.sub, method), consumes: []string{"*/*"}, produces: media,
		result: s.object, codes: a.codes, action: name, kind: s.kind,
	}
	if custom {
		o.consumes, o.produces = customMedia, customMedia
	}
	everywhere := s.scope != "" && !strings.Contains(p, s.scope)
	if s.scope != "" && !everywhere {
		o.name = "Namespaced" + o.name
	}
	options := []any{a.options}
	switch name {
	case "list":
		o.result = s.list(v)
		if !custom {
			o.produces = slices.Concat(media, streamMedia)
			if v.Resource().Serves("watch") {
				o.description = strings.Replace(o.description, "list", "list or watch", 1)
			}
		}
	case "watch", "watchlist":
		o.result, o.produces = s.definition(&metav1.WatchEvent{}), slices.Concat(media, streamMedia)
		if name == "watchlist" {
			o.name += "List"
		}
	case "get":
		if s.options != nil {
			o.produces = append([]string{"text/plain"}, media...)
		}
		if !custom {
			options = []any{s.options}
		}
	case "post", "put":
		o.parameters = append(o.parameters, body(s.object, true))
	case "patch":
		o.parameters = append(o.parameters, body(s.definition(&metav1.Patch{}), true))
		o.consumes = patches
		if custom {
			o.consumes, o.codes = customPatches, []int{http.StatusOK}
		}
	case "delete", "deletecollection":
		if name == "delete" && !v.Resource().ReturnDeleted || name == "deletecollection" {
			o.result = s.definition(&metav1.Status{})
		}
		if name == "deletecollection" {
			o.name = "Collection" + o.name
			if !custom {
				options = append(options, metav1.DeleteOptions{})
			}
		}
		if name == "delete" || !custom {
			o.parameters = append(o.parameters, body(s.definition(&metav1.DeleteOptions{}), false))
		}
	case "connect":
		o.name = capital(strings.ToLower(method)) + o.name
		o.produces, options = []string{"*/*"}, []any{s.options}
	}
	switch {
	case everywhere:
		o.name += "ForAllNamespaces"
	case strings.HasSuffix(p, "/{path}"):
		o.name += "WithPath"
	}
	for _, from := range options {
		o.parameters = append(o.parameters, parametersOf(from)...)
	}
	if name == "deletecollection" && !custom {
		o.parameters = slices.DeleteFunc(o.parameters, func(p spec.Parameter) bool { return p.Name == "watch" || p.Name == "allowWatchBookmarks" })
	}
	if name != "connect" {
		o.parameters = append(o.parameters, query("pretty", "string", "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget)."))
	}
	o.parameters = append(o.parameters, s.pathParameters(p)...)
	s.add(o)
}

// pathParameters are those that stand in braces in a path.
func (s subject) pathParameters(p string) (out []spec.Parameter) {
	for name, description := range map[string]string{
		"namespace": "object name and auth scope, such as for teams and projects", "name": "name of the " + s.kind.Kind, "path": "path to the resource",
	} {
		if strings.Contains(p, "{"+name+"}") {
			in := query(name, "string", description)
			in.In, in.Required = "path", true
			out = append(out, in)
		}
	}
	return out
}

// describe says what the action does with an object of the kind, or with a
// subresource of it.
func (a action) describe(kind, sub, method string) string {
	object := kind
	switch a.verb {
	case "read", "replace", "patch":
		object = "the specified " + kind
	case "create", "delete":
		if strings.Contains(a.description, "collection") {
			break
		}
		switch {
		case strings.HasSuffix(kind, "s") && !strings.HasSuffix(kind, "ss"):
		case strings.ContainsAny(kind[:1], "AEIOUaeiou"):
			object = "an " + kind
		default:
			object = "a " + kind
		}
	}
	if sub != "" {
		object = sub + " of " + object
	}
	if a.verb == "connect" {
		return fmt.Sprintf(a.description, object, method)
	}
	return fmt.Sprintf(a.description, object)
}

// definition returns the reference to the schema of what all groups have in
// common, by a pointer to it.
func (g *generator) definition(v any) spec.Schema {
	return g.definitions.ref(reflect.TypeOf(v).Elem())
}
