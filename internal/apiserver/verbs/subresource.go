package verbs

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
)

// Subresource finds a declared subresource; status and scale are not among
// them.
func (r *Resource) Subresource(name string) *apis.Subresource { return r.subresource(name) }

// Act carries out an action subresource, or a virtual resource's create when
// req has no subresource.
func (s *Server) Act(ctx context.Context, req *Request, body runtime.Object, o *metav1.CreateOptions) (runtime.Object, error) {
	if err := CheckCreateOptions(o); err != nil {
		return nil, err
	}
	if obj, ok := body.(apis.Object); ok {
		if err := checkNamespace(req, obj); err != nil {
			return nil, err
		}
	}
	r := req.Resource()
	dryRun := isDryRun(o.DryRun)
	if obj, ok := body.(apis.Object); ok && req.Subresource == "" {
		wipeSystemFields(obj)
		if err := s.trackCreate(req, obj, manager(ctx, o.FieldManager)); err != nil {
			return nil, err
		}
	}
	a := s.attributes(ctx, admission.Create, req, body, nil, o, dryRun)
	if err := s.admission.Mutate(ctx, a); err != nil {
		return nil, err
	}
	if err := s.admission.Validate(ctx, a); err != nil {
		return nil, err
	}
	if req.Subresource != "" {
		return r.subresource(req.Subresource).Create(ctx, storage{s}, req.Namespace, req.Name, body, dryRun)
	}
	obj := body.(apis.Object)
	if r.Default != nil {
		r.Default(obj)
	}
	if r.Validate != nil {
		if err := invalid(r, obj.GetName(), r.Validate(ctx, obj)); err != nil {
			return nil, err
		}
	}
	return r.Virtual.Create(ctx, storage{s}, req.Namespace, obj, dryRun)
}

// Connect asks admission whether a stream (exec, attach, port-forward, proxy)
// may be opened.
func (s *Server) Connect(ctx context.Context, req *Request, options runtime.Object) error {
	a := s.attributes(ctx, admission.Connect, req, options, nil, nil, false)
	if err := s.admission.Mutate(ctx, a); err != nil {
		return err
	}
	return s.admission.Validate(ctx, a)
}

// storage is what action subresources may do: any write, as the requester but
// without asking the authorizer again.
type storage struct{ server *Server }

func (t storage) request(r schema.GroupResource, namespace, name string) (*Request, error) {
	res := t.server.Lookup(r)
	if res == nil || res.Collection == nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("resource %s is not served", r))
	}
	return &Request{Version: res.Versions[0], Namespace: namespace, Name: name}, nil
}

func (t storage) Get(ctx context.Context, r schema.GroupResource, namespace, name string) (apis.Object, error) {
	req, err := t.request(r, namespace, name)
	if err != nil {
		return nil, err
	}
	e, err := t.server.Get(ctx, req, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return e.Object()
}

func (t storage) List(ctx context.Context, r schema.GroupResource, namespace string, yield func(apis.Object) bool) error {
	req, err := t.request(r, namespace, "")
	if err != nil {
		return err
	}
	list, err := t.server.List(ctx, req, &ListOptions{})
	if err != nil {
		return err
	}
	for _, e := range list.Entries {
		obj, err := e.Object()
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		if !yield(obj) {
			return nil
		}
	}
	return nil
}

func (t storage) Create(ctx context.Context, r schema.GroupResource, obj apis.Object, dryRun bool) (apis.Object, error) {
	req, err := t.request(r, obj.GetNamespace(), "")
	if err != nil {
		return nil, err
	}
	e, err := t.server.Create(ctx, req, obj, &metav1.CreateOptions{DryRun: dryRunOption(dryRun)})
	if err != nil {
		return nil, err
	}
	return e.Object()
}

func (t storage) Update(ctx context.Context, r schema.GroupResource, namespace, name string, dryRun bool, change func(apis.Object) error) (apis.Object, error) {
	req, err := t.request(r, namespace, name)
	if err != nil {
		return nil, err
	}
	e, err := t.server.modify(ctx, req, dryRun, func(old apis.Object) (apis.Object, error) {
		obj := old.DeepCopyObject().(apis.Object)
		if err := change(obj); err != nil {
			return nil, err
		}
		return obj, nil
	})
	if err != nil {
		return nil, err
	}
	return e.Object()
}

func (t storage) Delete(ctx context.Context, r schema.GroupResource, namespace, name string, o *metav1.DeleteOptions) error {
	req, err := t.request(r, namespace, name)
	if err != nil {
		return err
	}
	_, _, err = t.server.Delete(ctx, req, o)
	return err
}

func dryRunOption(dryRun bool) []string {
	if dryRun {
		return []string{metav1.DryRunAll}
	}
	return nil
}
