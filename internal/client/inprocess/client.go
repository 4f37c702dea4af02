// Package inprocess binds components to the API server in their own process: a
// request is a function call, with the component's identity, through the same
// authorization, admission and validation as over HTTP. No bytes, no sockets.
package inprocess

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"skiff/internal/apiserver/verbs"
	skiffclient "skiff/internal/client"
	"skiff/internal/identity"
)

// Binding makes clients of one API server.
type Binding struct {
	server  *verbs.Server
	foreign Foreign
	mapper  *mapper
	cache   *informers
	log     *slog.Logger
	// kinds are those of the Go types that were asked for, since the scheme takes
	// long to tell.
	kinds sync.Map
}

// Bind returns a binding to server, and to what others answer for it. Informers
// run until ctx ends.
func Bind(ctx context.Context, server *verbs.Server, foreign Foreign, log *slog.Logger) *Binding {
	b := &Binding{server: server, foreign: foreign, mapper: &mapper{server: server, foreign: foreign}, log: log}
	b.cache = newInformers(ctx, b)
	return b
}

// Cache reads the server's state without asking who reads: it is for the
// server's own parts, such as the authorizers.
func (b *Binding) Cache() skiffclient.Set { return skiffclient.Set{Cache: b.cache} }

// Set returns a component's view of the cluster, acting as user until ctx ends.
func (b *Binding) Set(ctx context.Context, user *identity.User) skiffclient.Set {
	c := &router{&inProcess{Binding: b, user: user, agent: agentOf(user.Name)}, b.connection(ctx, user)}
	return skiffclient.Set{Client: c, Cache: b.cache, Recorder: skiffclient.Recorders(ctx, c, b.log)}
}

// agentOf is the field manager's name of a component: that of the program that it
// is part of with upstream.
func agentOf(user string) string {
	switch {
	case user == identity.Loopback().Name:
		return "kube-apiserver"
	case strings.HasPrefix(user, identity.ServiceAccountPrefix+metav1.NamespaceSystem+":"):
		return "kube-controller-manager"
	}
	return user[strings.LastIndexByte(user, ':')+1:]
}

type inProcess struct {
	*Binding
	user  *identity.User
	agent string
}

var _ client.WithWatch = (*inProcess)(nil)

// begin finds what obj is about, asks whether this may be done, and begins the
// audit record.
func (c *inProcess) begin(ctx context.Context, verb, subresource string, obj runtime.Object, namespace, name string, ask verbs.Ask) (context.Context, *verbs.Request, verbs.Done, error) {
	v, err := c.version(obj)
	if err != nil {
		return ctx, nil, nil, err
	}
	req := &verbs.Request{Version: v, Namespace: namespace, Name: name, Subresource: subresource}
	if !v.Resource().Namespaced {
		req.Namespace = ""
	}
	ctx, done, err := c.server.Begin(identity.NewContext(verbs.WithUserAgent(ctx, c.agent), c.user), verb, req, ask)
	return ctx, req, done, err
}

// version finds the served version of obj's type (an object or a list).
func (b *Binding) version(obj runtime.Object) (*verbs.Version, error) {
	gvk, err := b.GroupVersionKindFor(obj)
	if err != nil {
		return nil, err
	}
	if _, v := b.server.LookupKind(gvk); v != nil {
		return v, nil
	}
	if kind, isList := strings.CutSuffix(gvk.Kind, "List"); isList {
		if _, v := b.server.LookupKind(gvk.GroupVersion().WithKind(kind)); v != nil {
			return v, nil
		}
	}
	return nil, &meta.NoKindMatchError{GroupKind: gvk.GroupKind(), SearchedVersions: []string{gvk.Version}}
}

func (c *inProcess) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) (err error) {
	ctx, req, done, err := c.begin(ctx, "get", "", obj, key.Namespace, key.Name, verbs.Ask{})
	if err != nil {
		return err
	}
	defer func() { done(err, obj) }()
	o := (&client.GetOptions{}).ApplyOptions(opts).AsGetOptions()
	e, err := c.server.Get(ctx, req, o)
	if err != nil {
		return err
	}
	return give(ctx, e, req.Version, obj, false)
}

func (c *inProcess) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) (err error) {
	o := (&client.ListOptions{}).ApplyOptions(opts)
	ctx, req, done, err := c.begin(ctx, "list", "", list, o.Namespace, nameOf(o), selecting(o.FieldSelector, o.LabelSelector))
	if err != nil {
		return err
	}
	defer func() { done(err, nil) }()
	raw := o.AsListOptions()
	res, err := c.server.List(ctx, req, &verbs.ListOptions{
		Labels: o.LabelSelector, Fields: o.FieldSelector, Limit: o.Limit, Continue: o.Continue,
		ResourceVersion: raw.ResourceVersion, ResourceVersionMatch: raw.ResourceVersionMatch,
	})
	if err != nil {
		return err
	}
	return giveList(ctx, res, req.Version, list, o.UnsafeDisableDeepCopy != nil && *o.UnsafeDisableDeepCopy)
}

func (c *inProcess) Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) (err error) {
	ctx, req, done, err := c.begin(ctx, "create", "", obj, obj.GetNamespace(), "", verbs.Ask{Body: obj})
	if err != nil {
		return err
	}
	defer func() { done(err, obj) }()
	in, err := take(obj, req.Version)
	if err != nil {
		return err
	}
	o := (&client.CreateOptions{}).ApplyOptions(opts)
	if req.Resource().Virtual != nil {
		out, err := c.server.Act(ctx, req, in, o.AsCreateOptions())
		if err != nil {
			return err
		}
		return assign(out, obj)
	}
	e, err := c.server.Create(ctx, req, in, o.AsCreateOptions())
	if err != nil {
		return err
	}
	return give(ctx, e, req.Version, obj, false)
}

func (c *inProcess) Update(ctx context.Context, obj client.Object, opts ...client.UpdateOption) error {
	o := (&client.UpdateOptions{}).ApplyOptions(opts)
	return c.update(ctx, "", obj, obj, o.AsUpdateOptions())
}

func (c *inProcess) update(ctx context.Context, subresource string, target, body client.Object, o *metav1.UpdateOptions) (err error) {
	ctx, req, done, err := c.begin(ctx, "update", subresource, target, target.GetNamespace(), target.GetName(), verbs.Ask{Body: body})
	if err != nil {
		return err
	}
	defer func() { done(err, body) }()
	if subresource == "scale" {
		scale, err := scaleFrom(body)
		if err != nil {
			return err
		}
		out, err := c.server.UpdateScale(ctx, req, o, scale)
		if err != nil {
			return err
		}
		return giveScale(out, body)
	}
	in, err := take(body, req.Version)
	if err != nil {
		return err
	}
	if subresource != "" && subresource != "status" {
		if sub := req.Resource().Subresource(subresource); sub == nil || sub.Prepare == nil {
			return apierrors.NewMethodNotSupported(req.Resource().GroupResource(), "update of "+subresource)
		}
	}
	e, _, err := c.server.Update(ctx, req, in, o)
	if err != nil {
		return err
	}
	return give(ctx, e, req.Version, body, false)
}

func (c *inProcess) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	o := (&client.PatchOptions{}).ApplyOptions(opts)
	return c.patch(ctx, "", obj, patch, o.AsPatchOptions())
}

func (c *inProcess) patch(ctx context.Context, subresource string, obj client.Object, patch client.Patch, o *metav1.PatchOptions) (err error) {
	data, err := patch.Data(obj)
	if err != nil {
		return err
	}
	ctx, req, done, err := c.begin(ctx, "patch", subresource, obj, obj.GetNamespace(), obj.GetName(), verbs.Ask{Patch: data})
	if err != nil {
		return err
	}
	defer func() { done(err, obj) }()
	if patch.Type() == types.ApplyPatchType && o.FieldManager == "" {
		o.FieldManager = c.agent
	}
	e, _, err := c.server.Patch(ctx, req, patch.Type(), data, o)
	if err != nil {
		return err
	}
	return give(ctx, e, req.Version, obj, false)
}

func (c *inProcess) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) (err error) {
	ctx, req, done, err := c.begin(ctx, "delete", "", obj, obj.GetNamespace(), obj.GetName(), verbs.Ask{})
	if err != nil {
		return err
	}
	defer func() { done(err, nil) }()
	o := (&client.DeleteOptions{}).ApplyOptions(opts)
	_, _, err = c.server.Delete(ctx, req, o.AsDeleteOptions())
	return err
}

func (c *inProcess) DeleteAllOf(ctx context.Context, obj client.Object, opts ...client.DeleteAllOfOption) (err error) {
	o := (&client.DeleteAllOfOptions{}).ApplyOptions(opts)
	ctx, req, done, err := c.begin(ctx, "deletecollection", "", obj, o.Namespace, "", selecting(o.FieldSelector, o.LabelSelector))
	if err != nil {
		return err
	}
	defer func() { done(err, nil) }()
	_, err = c.server.DeleteCollection(ctx, req, o.AsDeleteOptions(), &verbs.ListOptions{Labels: o.LabelSelector, Fields: o.FieldSelector})
	return err
}

// Apply implements server-side apply of a typed configuration.
func (c *inProcess) Apply(ctx context.Context, obj runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
	return c.apply(ctx, "", obj, (&client.ApplyOptions{}).ApplyOptions(opts))
}

func (c *inProcess) Status() client.SubResourceWriter { return c.SubResource("status") }

func (c *inProcess) SubResource(name string) client.SubResourceClient {
	return &subresource{c, name}
}

func (b *Binding) Scheme() *runtime.Scheme { return b.server.Scheme() }

func (b *Binding) RESTMapper() meta.RESTMapper { return b.mapper }

func (b *Binding) GroupVersionKindFor(obj runtime.Object) (schema.GroupVersionKind, error) {
	if shapeOf(obj) != typed {
		return apiutil.GVKForObject(obj, b.server.Scheme())
	}
	t := reflect.TypeOf(obj)
	if known, ok := b.kinds.Load(t); ok {
		return known.(schema.GroupVersionKind), nil
	}
	gvk, err := apiutil.GVKForObject(obj, b.server.Scheme())
	if err == nil {
		b.kinds.Store(t, gvk)
	}
	return gvk, err
}

func (b *Binding) IsObjectNamespaced(obj runtime.Object) (bool, error) {
	gvk, err := b.GroupVersionKindFor(obj)
	if err != nil {
		return false, err
	}
	return apiutil.IsGVKNamespaced(gvk, b.mapper)
}

// Watch streams events of what list's type and opts select.
func (c *inProcess) Watch(ctx context.Context, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
	o := (&client.ListOptions{}).ApplyOptions(opts)
	ctx, req, done, err := c.begin(ctx, "watch", "", list, o.Namespace, nameOf(o), selecting(o.FieldSelector, o.LabelSelector))
	if err != nil {
		return nil, err
	}
	raw := o.AsListOptions()
	w, err := c.server.Watch(ctx, req, &verbs.ListOptions{
		Labels: o.LabelSelector, Fields: o.FieldSelector, ResourceVersion: raw.ResourceVersion,
		ResourceVersionMatch: raw.ResourceVersionMatch, SendInitialEvents: raw.SendInitialEvents, AllowBookmarks: raw.AllowWatchBookmarks,
	})
	// What is recorded of a watch is that it began.
	done(err, nil)
	if err != nil {
		return nil, err
	}
	return startWatch(ctx, w, req.Version, list), nil
}

// selecting are the selectors, by which a request is authorized too: a node may
// list the pods that are its own.
func selecting(f fields.Selector, l labels.Selector) (ask verbs.Ask) {
	if f != nil {
		ask.Fields = f.Requirements()
	}
	if l != nil {
		ask.Labels, _ = l.Requirements()
	}
	return ask
}

// nameOf is the name that a field selector narrows a list or watch to; such a
// request is authorized for that name.
func nameOf(o *client.ListOptions) string {
	if o.FieldSelector == nil {
		return ""
	}
	name, _ := o.FieldSelector.RequiresExactMatch("metadata.name")
	return name
}

type subresource struct {
	c    *inProcess
	name string
}

func (s *subresource) Get(ctx context.Context, obj, sub client.Object, _ ...client.SubResourceGetOption) (err error) {
	ctx, req, done, err := s.c.begin(ctx, "get", s.name, obj, obj.GetNamespace(), obj.GetName(), verbs.Ask{})
	if err != nil {
		return err
	}
	defer func() { done(err, sub) }()
	e, err := s.c.server.Get(ctx, req, &metav1.GetOptions{})
	if err != nil {
		return err
	}
	if s.name == "scale" {
		if req.Resource().Scale == nil {
			return apierrors.NewGenericServerResponse(http.StatusNotFound, "get", req.Resource().GroupResource(), req.Name, "", 0, true)
		}
		parent, err := e.Object()
		if err != nil {
			return err
		}
		scale, err := req.Resource().ReadScale(parent)
		if err != nil {
			return err
		}
		return giveScale(scale, sub)
	}
	return give(ctx, e, req.Version, sub, false)
}

func (s *subresource) Create(ctx context.Context, obj, sub client.Object, opts ...client.SubResourceCreateOption) (err error) {
	ctx, req, done, err := s.c.begin(ctx, "create", s.name, obj, obj.GetNamespace(), obj.GetName(), verbs.Ask{Body: sub})
	if err != nil {
		return err
	}
	defer func() { done(err, sub) }()
	d := req.Resource().Subresource(s.name)
	if d == nil || d.Create == nil {
		return apierrors.NewMethodNotSupported(req.Resource().GroupResource(), "create of "+s.name)
	}
	o := &client.SubResourceCreateOptions{}
	o.ApplyOptions(opts)
	out, err := s.c.server.Act(ctx, req, sub.DeepCopyObject(), o.AsCreateOptions())
	if err != nil {
		return err
	}
	if _, isStatus := out.(*metav1.Status); isStatus {
		return nil
	}
	return assign(out, sub)
}

func (s *subresource) Update(ctx context.Context, obj client.Object, opts ...client.SubResourceUpdateOption) error {
	o := &client.SubResourceUpdateOptions{}
	o.ApplyOptions(opts)
	body := obj
	if o.SubResourceBody != nil {
		body = o.SubResourceBody
	}
	return s.c.update(ctx, s.name, obj, body, o.AsUpdateOptions())
}

func (s *subresource) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
	o := &client.SubResourcePatchOptions{}
	o.ApplyOptions(opts)
	if o.SubResourceBody != nil {
		return fmt.Errorf("patching %s with a body of its own is not supported in process", s.name)
	}
	return s.c.patch(ctx, s.name, obj, patch, o.AsPatchOptions())
}

func (s *subresource) Apply(ctx context.Context, obj runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
	o := &client.SubResourceApplyOptions{}
	o.ApplyOpts(opts)
	return s.c.apply(ctx, s.name, obj, &o.ApplyOptions)
}
