package verbs

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/audit"
	"skiff/internal/identity"
)

func annotate(ctx context.Context, key, value string) {
	if !strings.HasPrefix(key, admission.PatchAnnotation) || audit.FromContext(ctx).WantsRequest() {
		audit.Annotate(ctx, key, value)
	}
}

func (s *Server) attributes(ctx context.Context, op admission.Operation, req *Request, obj, old, options runtime.Object, dryRun bool) *admission.Attributes {
	a := &admission.Attributes{
		Operation: op, Resource: req.Resource().Resource, Version: req.Version.Version, Subresource: req.Subresource,
		Namespace: req.Namespace, Name: req.Name, Collective: req.collective, Object: obj, Old: old, Options: options,
		DryRun: dryRun, User: identity.FromContext(ctx),
		Warn:     func(text string) { Warn(ctx, text) },
		Annotate: func(key, value string) { annotate(ctx, key, value) },
	}
	if a.SpeaksParent() {
		a.Codec = codec{req.Version}
	}
	return a
}

// mutate lets admission change obj.
func (s *Server) mutate(ctx context.Context, a *admission.Attributes, obj apis.Object) error {
	owners := obj.GetManagedFields()
	if err := s.admission.Mutate(ctx, a); err != nil {
		return err
	}
	now := obj.GetManagedFields()
	if len(now) == 0 || len(now) == len(owners) && &now[0] == &owners[0] {
		return nil // nobody has touched them
	}
	if err := managedfields.ValidateManagedFields(now); err != nil {
		obj.SetManagedFields(owners)
		a.Warn(fmt.Sprintf(".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: %v", err))
	}
	return nil
}

// codec implements admission.Codec for requests in a version of a resource.
type codec struct{ version *Version }

func (c codec) As(ctx context.Context, obj apis.Object, v *apis.Version) (apis.Object, error) {
	r := c.version.resource
	target := r.versionOf(v)
	switch {
	case r.Custom == nil:
		return target.FromHub(obj)
	case target.holds(obj):
		return obj, nil
	}
	out, err := r.convert(ctx, v.Version, obj)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func (c codec) Read(ctx context.Context, data []byte, v *apis.Version, strict bool) (apis.Object, error) {
	r := c.version.resource
	target := r.versionOf(v)
	obj := v.New()
	unknown := metav1.FieldValidationIgnore
	if strict && r.Custom == nil {
		unknown = metav1.FieldValidationStrict
	}
	if err := target.DecodeJSON(ctx, data, obj, unknown); err != nil {
		return nil, err
	}
	if obj.GetObjectKind().GroupVersionKind() != v.GVK() {
		return nil, apierrors.NewInternalError(fmt.Errorf("the object is a %s now, it must remain a %s", obj.GetObjectKind().GroupVersionKind(), v.GVK()))
	}
	clearKind(obj)
	obj, err := target.ToHub(obj)
	if err != nil || r.Custom == nil || c.version.holds(obj) {
		return obj, err
	}
	out, err := r.convert(ctx, c.version.Version.Version, obj)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// versionOf returns what is known of a version of the resource.
func (r *Resource) versionOf(v *apis.Version) *Version {
	for _, known := range r.Versions {
		if known.Version == v {
			return known
		}
	}
	return r.hub
}
