package inprocess

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	skiffclient "skiff/internal/client"
	"skiff/internal/identity"
)

// Foreign is what other servers answer in this server's name. That is reached
// over HTTP, through this server, with the component's identity.
type Foreign interface {
	// Serves reports whether another server answers the group version.
	Serves(gv schema.GroupVersion) bool
	// Resources lists what the other servers serve, with a number that changes
	// when that does.
	Resources() (revision int64, lists []*metav1.APIResourceList)
	// Connect reaches the API over HTTP as user, until ctx ends.
	Connect(ctx context.Context, user *identity.User) (skiffclient.Set, error)
}

// connection is a component's way to what other servers answer, made when it is
// first needed.
type connection struct {
	open func() (skiffclient.Set, error)

	mu  sync.Mutex
	set *skiffclient.Set
}

func (b *Binding) connection(ctx context.Context, user *identity.User) *connection {
	return &connection{open: func() (skiffclient.Set, error) { return b.foreign.Connect(ctx, user) }}
}

func (c *connection) get() (skiffclient.Set, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set == nil {
		set, err := c.open()
		if err != nil {
			return set, err
		}
		c.set = &set
	}
	return *c.set, nil
}

// made returns the connection if there is one already.
func (c *connection) made() *skiffclient.Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set
}

// elsewhere reports whether another server answers for obj's type.
func (b *Binding) elsewhere(obj runtime.Object) bool {
	gvk, err := b.GroupVersionKindFor(obj)
	return err == nil && b.foreign.Serves(gvk.GroupVersion())
}

// router sends each request to who answers it.
type router struct {
	*inProcess
	remote *connection
}

var _ client.WithWatch = (*router)(nil)

func (r *router) to(obj runtime.Object) (client.WithWatch, error) {
	if !r.elsewhere(obj) {
		return r.inProcess, nil
	}
	set, err := r.remote.get()
	return set.Client, err
}

func (r *router) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	c, err := r.to(obj)
	if err != nil {
		return err
	}
	return c.Get(ctx, key, obj, opts...)
}

func (r *router) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	c, err := r.to(list)
	if err != nil {
		return err
	}
	return c.List(ctx, list, opts...)
}

func (r *router) Watch(ctx context.Context, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
	c, err := r.to(list)
	if err != nil {
		return nil, err
	}
	return c.Watch(ctx, list, opts...)
}

func (r *router) Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) error {
	c, err := r.to(obj)
	if err != nil {
		return err
	}
	return c.Create(ctx, obj, opts...)
}

func (r *router) Update(ctx context.Context, obj client.Object, opts ...client.UpdateOption) error {
	c, err := r.to(obj)
	if err != nil {
		return err
	}
	return c.Update(ctx, obj, opts...)
}

func (r *router) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	c, err := r.to(obj)
	if err != nil {
		return err
	}
	return c.Patch(ctx, obj, patch, opts...)
}

func (r *router) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	c, err := r.to(obj)
	if err != nil {
		return err
	}
	return c.Delete(ctx, obj, opts...)
}

func (r *router) DeleteAllOf(ctx context.Context, obj client.Object, opts ...client.DeleteAllOfOption) error {
	c, err := r.to(obj)
	if err != nil {
		return err
	}
	return c.DeleteAllOf(ctx, obj, opts...)
}

func (r *router) Status() client.SubResourceWriter { return r.SubResource("status") }

func (r *router) SubResource(name string) client.SubResourceClient {
	return &subresourceRouter{r, name}
}

type subresourceRouter struct {
	*router
	name string
}

func (s *subresourceRouter) to(obj runtime.Object) (client.SubResourceClient, error) {
	c, err := s.router.to(obj)
	if err != nil {
		return nil, err
	}
	return c.SubResource(s.name), nil
}

func (s *subresourceRouter) Get(ctx context.Context, obj, sub client.Object, opts ...client.SubResourceGetOption) error {
	c, err := s.to(obj)
	if err != nil {
		return err
	}
	return c.Get(ctx, obj, sub, opts...)
}

func (s *subresourceRouter) Create(ctx context.Context, obj, sub client.Object, opts ...client.SubResourceCreateOption) error {
	c, err := s.to(obj)
	if err != nil {
		return err
	}
	return c.Create(ctx, obj, sub, opts...)
}

func (s *subresourceRouter) Update(ctx context.Context, obj client.Object, opts ...client.SubResourceUpdateOption) error {
	c, err := s.to(obj)
	if err != nil {
		return err
	}
	return c.Update(ctx, obj, opts...)
}

func (s *subresourceRouter) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
	c, err := s.to(obj)
	if err != nil {
		return err
	}
	return c.Patch(ctx, obj, patch, opts...)
}

func (s *subresourceRouter) Apply(ctx context.Context, config runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
	return s.inProcess.SubResource(s.name).Apply(ctx, config, opts...)
}
