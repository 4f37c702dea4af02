// Package review shows a write as webhooks and policies see it: in the version
// that their rules name, as a document, as CEL values, and described by an
// AdmissionRequest. Each form is made at most once for each state of the
// object.
package review

import (
	"context"
	"encoding/json"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/match"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/cel"
	"skiff/internal/apiserver/verbs"
)

// Views are the views of one write. They belong to one goroutine.
type Views struct {
	a     *admission.Attributes
	authz authz.Authorizer
	views map[*apis.Version]*View
}

// New returns the views of a write. Expressions ask z what the requester may
// do.
func New(a *admission.Attributes, z authz.Authorizer) *Views {
	return &Views{a: a, authz: z, views: map[*apis.Version]*View{}}
}

// In returns the write as t's owner sees it.
func (s *Views) In(t match.Target) *View {
	v := s.views[t.Version]
	if v == nil {
		v = &View{a: s.a, target: t, authz: s.authz}
		s.views[t.Version] = v
	}
	return v
}

// Changed makes the views see the object anew.
func (s *Views) Changed() {
	for _, v := range s.views {
		v.object = form{}
	}
}

// View is a write in one version.
type View struct {
	a           *admission.Attributes
	target      match.Target
	authz       authz.Authorizer
	object, old form

	request map[string]any
}

// Version returns the version.
func (v *View) Version() *apis.Version { return v.target.Version }

// form is what was made of an object so far.
type form struct {
	document []byte
	value    map[string]any
}

// Object returns the JSON document of the new object, nil if there is none.
func (v *View) Object(ctx context.Context) ([]byte, error) {
	return v.document(ctx, &v.object, v.a.Object)
}

// Old returns the JSON document of the stored object, nil if there is none.
func (v *View) Old(ctx context.Context) ([]byte, error) { return v.document(ctx, &v.old, v.a.Old) }

func (v *View) document(ctx context.Context, f *form, obj runtime.Object) ([]byte, error) {
	if obj == nil || f.document != nil {
		return f.document, nil
	}
	obj, err := v.convert(ctx, obj)
	if err != nil {
		return nil, err
	}
	f.document, err = verbs.EncodeJSON(v.target.Kind, obj)
	return f.document, err
}

// convert returns obj in the view's version.
func (v *View) convert(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	o, ok := obj.(apis.Object)
	if !ok || v.a.Codec == nil {
		return obj, nil
	}
	return v.a.Codec.As(ctx, o, v.target.Version)
}

// ObjectValue returns the new object's CEL value, nil if there is none. It must
// not be changed.
func (v *View) ObjectValue(ctx context.Context) (map[string]any, error) {
	return v.value(ctx, &v.object, v.a.Object)
}

func (v *View) value(ctx context.Context, f *form, obj runtime.Object) (map[string]any, error) {
	if obj == nil || f.value != nil {
		return f.value, nil
	}
	obj, err := v.convert(ctx, obj)
	if err != nil {
		return nil, err
	}
	f.value, err = Value(v.target.Kind, obj)
	return f.value, err
}

// Value returns the CEL value of an object of the kind.
func Value(kind schema.GroupVersionKind, obj runtime.Object) (map[string]any, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return u.Object, nil
	}
	value, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, err
	}
	value["apiVersion"], value["kind"] = kind.ToAPIVersionAndKind()
	return value, nil
}

// Activation returns the values of expressions' variables, without params and
// namespaceObject.
func (v *View) Activation(ctx context.Context) (cel.Activation, error) {
	var act cel.Activation
	var err error
	if act.Object, err = v.ObjectValue(ctx); err != nil {
		return act, fmt.Errorf("failed to prepare object variable for evaluation: %w", err)
	}
	if act.OldObject, err = v.value(ctx, &v.old, v.a.Old); err != nil {
		return act, fmt.Errorf("failed to prepare oldObject variable for evaluation: %w", err)
	}
	if v.request == nil {
		request, err := v.Request()
		if err == nil {
			v.request, err = runtime.DefaultUnstructuredConverter.ToUnstructured(request)
		}
		if err != nil {
			return act, fmt.Errorf("failed to prepare request variable for evaluation: %w", err)
		}
	}
	act.Request = v.request
	act.Authorizer, act.RequestResource = cel.Authorizers(v.authz, v.a.User, cel.RequestResource{
		Resource: v.a.GVR(v.a.RequestVersion()), Subresource: v.a.Subresource, Namespace: v.a.RequestNamespace(), Name: v.a.RequestName(),
	})
	return act, nil
}

// Request describes the write, without its objects.
func (v *View) Request() (*admissionv1.AdmissionRequest, error) {
	a, asked := v.a, v.a.RequestVersion()
	kind, resource := metav1.GroupVersionKind(a.Kind(asked)), metav1.GroupVersionResource(a.GVR(asked))
	r := &admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind(v.target.Kind), Resource: metav1.GroupVersionResource(v.target.Resource), SubResource: a.Subresource,
		RequestKind: &kind, RequestResource: &resource, RequestSubResource: a.Subresource,
		Name: a.RequestName(), Namespace: a.RequestNamespace(), Operation: admissionv1.Operation(a.Operation), DryRun: &a.DryRun,
	}
	if u := a.User; u != nil {
		r.UserInfo = u.Info()
	}
	options, err := optionsDocument(a.Options)
	r.Options.Raw = options
	return r, err
}

// optionsDocument returns the options of a write with their kind.
func optionsDocument(o runtime.Object) ([]byte, error) {
	kind := ""
	switch o.(type) {
	case nil:
		return nil, nil
	case *metav1.CreateOptions:
		kind = "CreateOptions"
	case *metav1.UpdateOptions:
		kind = "UpdateOptions"
	case *metav1.DeleteOptions:
		kind = "DeleteOptions"
	default:
		return json.Marshal(o)
	}
	data, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return verbs.WithKind(schema.GroupVersionKind{Group: "meta.k8s.io", Version: "v1", Kind: kind}, data), nil
}
