package verbs

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/store/cache"
)

// Subresource finds a declared subresource; status and scale are not among
// them.
func (r *Resource) Subresource(name string) *apis.Subresource { return r.subresource(name) }

// Edit changes the parent through a subresource that is a view of it.
func (s *Server) Edit(ctx context.Context, req *Request, body runtime.Object, o *metav1.UpdateOptions) (*cache.Entry, error) {
	sub := req.Resource().subresource(req.Subresource)
	return s.modify(ctx, req, isDryRun(o.DryRun), func(old apis.Object) (apis.Object, error) {
		return s.admitEdit(ctx, req, sub, body, old, o)
	})
}

func (s *Server) admitEdit(ctx context.Context, req *Request, sub *apis.Subresource, body runtime.Object, old apis.Object, o *metav1.UpdateOptions) (apis.Object, error) {
	obj := old.DeepCopyObject().(apis.Object)
	if b, ok := body.(apis.Object); ok {
		if err := checkPreconditions(req, b, old); err != nil {
			return nil, err
		}
	}
	if err := sub.Edit(ctx, obj, body.DeepCopyObject()); err != nil {
		return nil, err
	}
	return s.admitUpdate(ctx, req, obj, old, o, sub.New == nil)
}

// PatchEdit patches the parent through such a view.
func (s *Server) PatchEdit(ctx context.Context, req *Request, t types.PatchType, patch []byte, o *metav1.PatchOptions) (*cache.Entry, error) {
	if err := validatePatchOptions(o, t); err != nil {
		return nil, err
	}
	sub := req.Resource().subresource(req.Subresource)
	uo := &metav1.UpdateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	return s.modify(ctx, req, isDryRun(o.DryRun), func(old apis.Object) (apis.Object, error) {
		body, err := s.patched(ctx, req, old, t, patch, o.FieldValidation)
		if err != nil {
			return nil, err
		}
		return s.admitEdit(ctx, req, sub, body, old, uo)
	})
}

// Act carries out an action subresource, or a virtual resource's create when
// req has no subresource.
func (s *Server) Act(ctx context.Context, req *Request, body runtime.Object, o *metav1.CreateOptions) (runtime.Object, error) {
	if err := validateCreateOptions(o); err != nil {
		return nil, err
	}
	r := req.Resource()
	dryRun := isDryRun(o.DryRun)
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
	if err := checkNamespace(req, obj); err != nil {
		return nil, err
	}
	if r.Default != nil {
		r.Default(obj)
	}
	if r.Validate != nil {
		if err := invalid(r, obj.GetName(), r.Validate(ctx, obj)); err != nil {
			return nil, err
		}
	}
	return r.Virtual.Create(ctx, storage{s}, req.Namespace, obj)
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

// ScaleGVK is what scale subresources speak.
var scaleGVK = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// ScaleOf returns the scale view of an object.
func (r *Resource) ScaleOf(obj apis.Object) *autoscalingv1.Scale {
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: r.Scale.Replicas(obj)},
		Status: autoscalingv1.ScaleStatus{Replicas: r.Scale.StatusReplicas(obj), Selector: r.Scale.Selector(obj)},
	}
}

// UpdateScale sets an object's replicas to what change makes of its scale.
func (s *Server) UpdateScale(ctx context.Context, req *Request, o *metav1.UpdateOptions, change func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error)) (*autoscalingv1.Scale, error) {
	r := req.Resource()
	parent := *req
	parent.Subresource = "scale"
	e, err := s.modify(ctx, req, isDryRun(o.DryRun), func(old apis.Object) (apis.Object, error) {
		have := r.ScaleOf(old)
		scale, err := change(have.DeepCopy())
		if err != nil {
			return nil, err
		}
		var errs field.ErrorList
		if scale.Name != "" && scale.Name != req.Name {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), scale.Name, "must match the object's name"))
		}
		if scale.Spec.Replicas < 0 {
			errs = append(errs, field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0"))
		}
		if len(errs) > 0 {
			return nil, apierrors.NewInvalid(scaleGVK.GroupKind(), req.Name, errs)
		}
		if err := checkPreconditions(req, scale, old); err != nil {
			return nil, err
		}
		a := s.attributes(ctx, admission.Update, &parent, scale, have, o, isDryRun(o.DryRun))
		if err := s.admission.Mutate(ctx, a); err != nil {
			return nil, err
		}
		if err := s.admission.Validate(ctx, a); err != nil {
			return nil, err
		}
		obj := old.DeepCopyObject().(apis.Object)
		r.Scale.SetReplicas(obj, scale.Spec.Replicas)
		s.countGeneration(req.Version, obj, old)
		// The scale view of the object is its own manager's business
		// (upstream: subresource "scale" in managedFields).
		plain := *req
		plain.Subresource = ""
		if err := s.trackUpdate(&plain, old, obj, manager(ctx, o.FieldManager)); err != nil {
			return nil, err
		}
		obj.SetResourceVersion(old.GetResourceVersion())
		if err := s.validateUpdate(ctx, &plain, obj, old); err != nil {
			return nil, err
		}
		return obj, nil
	})
	if err != nil {
		return nil, err
	}
	obj, err := req.Version.workingObject(ctx, e)
	if err != nil {
		return nil, err
	}
	return r.ScaleOf(obj), nil
}

// PatchScale patches the scale view.
func (s *Server) PatchScale(ctx context.Context, req *Request, t types.PatchType, patch []byte, o *metav1.PatchOptions) (*autoscalingv1.Scale, error) {
	if err := validatePatchOptions(o, t); err != nil {
		return nil, err
	}
	uo := &metav1.UpdateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	return s.UpdateScale(ctx, req, uo, func(scale *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		doc, err := EncodeJSON(scaleGVK, scale)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		kind := t
		if t == types.ApplyYAMLPatchType {
			kind = types.MergePatchType
			if patch, err = yaml.YAMLToJSON(patch); err != nil {
				return nil, apierrors.NewBadRequest(err.Error())
			}
		}
		out, err := applyPatch(doc, kind, patch, &autoscalingv1.Scale{})
		if err != nil {
			return nil, err
		}
		scale = &autoscalingv1.Scale{}
		if err := DecodeJSON(ctx, out, scale, o.FieldValidation); err != nil {
			return nil, patchResultError(out, err)
		}
		return scale, nil
	})
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
