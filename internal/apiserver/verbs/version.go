package verbs

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apis"
	"skiff/internal/store/cache"
)

// Storage returns the version that the resource's objects are stored in, served
// or not.
func (r *Resource) Storage() *Version { return r.hub }

// Requests work on objects in one version, the working version: the hub for
// resources with Go types, and for custom resources the request's own, in
// which their schema is to be met. Only what is stored is the hub's then.

// working is the version that requests for v work in.
func (v *Version) working() *Version {
	if v.resource.Custom != nil {
		return v
	}
	return v.resource.hub
}

// workingObject returns the entry's object in the working version; it is
// shared.
func (v *Version) workingObject(ctx context.Context, e *cache.Entry) (apis.Object, error) {
	if v.resource.Custom != nil {
		return v.Object(ctx, e)
	}
	obj, err := e.Object()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj, nil
}

// selectablePath returns the resource's name for a field that clients of this
// version select by.
func (v *Version) selectablePath(field string) string {
	if v.FieldNames == nil || strings.HasPrefix(field, "metadata.") {
		return field
	}
	return v.FieldNames[field]
}

// unselectable is what clients are told who select by a field that cannot be
// selected by. As with upstream, it depends on whether there are other such fields
// than those of metadata.
func (v *Version) unselectable(field string) string {
	r := v.resource
	switch {
	case r.Custom == nil && len(r.Fields)+len(v.Fields) == 0:
		return fmt.Sprintf("%q is not a known field selector: only %q, %q", field, "metadata.name", "metadata.namespace")
	case r.Group == "batch":
		return fmt.Sprintf("field label %q not supported for %s", field, v.Kind)
	case r.Group == "resource.k8s.io":
		return fmt.Sprintf("field label not supported for %s: %s", v.GVK(), field)
	}
	return "field label not supported: " + field
}

// namespaceSelectable reports whether clients may select by namespace, where
// there may be none.
func (v *Version) namespaceSelectable() bool {
	r := v.resource
	return r.Namespaced || r.Custom == nil && len(r.Fields)+len(v.Fields) == 0
}

// Object returns the entry's object in this version; it is shared.
func (v *Version) Object(ctx context.Context, e *cache.Entry) (apis.Object, error) {
	obj, err := e.Object()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if v.resource.Custom == nil {
		return v.FromHub(obj)
	}
	if v.holds(obj) {
		return obj, nil
	}
	if have, ok := e.Converted(v.Version.Version); ok {
		return have, nil
	}
	out, err := v.resource.convert(ctx, v.Version.Version, obj)
	if err != nil {
		return nil, err
	}
	return e.Convert(v.Version.Version, out[0]), nil
}

// Prepare converts all entries at once, so that Object has no work left.
func (v *Version) Prepare(ctx context.Context, entries []*cache.Entry) error {
	if v.resource.Custom == nil {
		return nil
	}
	var todo []*cache.Entry
	var objs []apis.Object
	for _, e := range entries {
		obj, err := e.Object()
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		if _, done := e.Converted(v.Version.Version); !done && !v.holds(obj) {
			todo, objs = append(todo, e), append(objs, obj)
		}
	}
	if len(todo) == 0 {
		return nil
	}
	out, err := v.resource.convert(ctx, v.Version.Version, objs...)
	if err != nil {
		return err
	}
	for i, e := range todo {
		e.Convert(v.Version.Version, out[i])
	}
	return nil
}

// holds reports whether a custom object is in this version already.
func (v *Version) holds(obj apis.Object) bool {
	return obj.GetObjectKind().GroupVersionKind().Version == v.Version.Version
}

// convert makes custom objects ones of the version.
func (r *Resource) convert(ctx context.Context, version string, objs ...apis.Object) ([]apis.Object, error) {
	out, err := r.Custom.Convert(ctx, objs, version)
	if err != nil {
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error(),
		}}
	}
	return out, nil
}

// stored returns obj as it is to be written, and whether it is another object.
func (r *Resource) stored(ctx context.Context, obj apis.Object) (out apis.Object, converted bool, err error) {
	if r.Custom == nil || r.hub.holds(obj) {
		return obj, false, nil
	}
	all, err := r.convert(ctx, r.Hub.Version, obj)
	if err != nil {
		return nil, false, err
	}
	return all[0], true, nil
}

// stale reports whether the entry is stored in another version than new
// objects are.
func (r *Resource) stale(e *cache.Entry) bool {
	if r.Custom == nil {
		return false
	}
	obj, err := e.Object()
	return err == nil && !r.hub.holds(obj)
}

// Has reports whether this version serves status or scale.
func (v *Version) Has(subresource string) bool {
	switch {
	case slices.Contains(v.Without, subresource):
		return false
	case subresource == "status":
		return v.resource.HasStatus
	case subresource == "scale":
		return v.resource.Scale != nil
	}
	return false
}

// workingGVK is the kind that objects have while they are worked on.
func (v *Version) workingGVK() schema.GroupVersionKind { return v.working().GVK() }

// FromHub returns a stored object in this version. The result shares nothing
// that may be changed with obj unless v is the hub, when it is obj itself.
func (v *Version) FromHub(obj apis.Object) (apis.Object, error) {
	if v.IsHub || v.Version.FromHub == nil {
		return obj, nil
	}
	return v.Version.FromHub(obj)
}

// ToHub fills the defaults of this version and returns obj in the hub version
// with the hub's defaults.
func (v *Version) ToHub(obj apis.Object) (apis.Object, error) {
	if v.Version.Default != nil {
		v.Version.Default(obj)
	}
	if v.Version.ToHub != nil {
		var err error
		if obj, err = v.Version.ToHub(obj); err != nil {
			return nil, err
		}
	}
	if v.resource.Default != nil {
		v.resource.Default(obj)
	}
	return obj, nil
}
