package verbs

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/unversioned"
)

// Lengths of generated names: the random suffix, and the longest base before
// it that still makes a DNS label.
const (
	suffixLength  = 5
	maxBaseLength = 63 - suffixLength
	// nameAttempts is how often a generated name is tried (KEP-4420).
	nameAttempts = 8
)

func generateName(base string) string {
	if len(base) > maxBaseLength {
		base = base[:maxBaseLength]
	}
	return base + rand.String(suffixLength)
}

// checkNamespace makes obj's namespace that of the request.
func checkNamespace(req *Request, obj apis.Object) error {
	if !req.Resource().Namespaced {
		obj.SetNamespace("")
		return nil
	}
	switch ns := obj.GetNamespace(); {
	case ns == "":
		obj.SetNamespace(req.Namespace)
	case ns != req.Namespace:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// checkName makes sure that an object that replaces another has its name and
// namespace.
func checkName(req *Request, obj apis.Object) error {
	if err := checkNamespace(req, obj); err != nil {
		return err
	}
	bad := func(format string, args ...any) error { return apierrors.NewBadRequest(fmt.Sprintf(format, args...)) }
	if obj.GetName() == "" {
		return bad("the name of the object (%s based on URL) was undeterminable: name must be provided", req.Name)
	}
	if obj.GetName() != req.Name {
		return bad("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), req.Name)
	}
	return req.CheckPath()
}

// CheckPath makes sure that nothing but one object can have the request's name in
// its path.
func (r *Request) CheckPath() error {
	if wrong := content.IsPathSegmentName(r.Name); len(wrong) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("Name parameter invalid: %q: %s", r.Name, strings.Join(wrong, ";")))
	}
	return nil
}

// uniqueOwners drops from obj's owners those that it has twice, and tells the
// requester, who sees when that was found.
func uniqueOwners(ctx context.Context, obj apis.Object, when string) {
	var unique []metav1.OwnerReference
	var twice []string
	for _, owner := range obj.GetOwnerReferences() {
		if slices.ContainsFunc(unique, func(o metav1.OwnerReference) bool { return equality.Semantic.DeepEqual(o, owner) }) {
			twice = append(twice, string(owner.UID))
		} else {
			unique = append(unique, owner)
		}
	}
	if len(twice) == 0 {
		return
	}
	obj.SetOwnerReferences(unique)
	Warn(ctx, fmt.Sprintf(".metadata.ownerReferences contains duplicate entries%s; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: %s",
		when, strings.Join(twice, ", ")))
}

// afterAdmission is when what plug-ins and webhooks have made of an object is
// looked at.
const afterAdmission = " after mutating admission happens"

// wipeSystemFields empties what creators have no say in.
func wipeSystemFields(obj apis.Object) {
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	obj.SetUID("")
	obj.SetCreationTimestamp(metav1.Time{})
}

// prepareCreate sets what the system owns in a new object.
func (s *Server) prepareCreate(ctx context.Context, v *Version, obj apis.Object) {
	r := v.resource
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	obj.SetUID(uuid.NewUUID())
	obj.SetCreationTimestamp(metav1.NewTime(s.clock.Now()))
	if r.Generation {
		obj.SetGeneration(1)
	}
	if v.Has("status") && !r.KeepStatusOnCreate {
		clearStatus(obj)
	}
	if r.PrepareCreate != nil {
		r.PrepareCreate(ctx, obj)
	}
	if r.Discard != nil {
		r.Discard(ctx, obj, nil)
	}
	r.times().Round(obj)
}

// prepareUpdate carries over what an update may not change.
func (s *Server) prepareUpdate(ctx context.Context, req *Request, obj, old apis.Object) {
	r := req.Resource()
	carrySystemFields(obj, old)
	switch req.Subresource {
	case "status":
		keepAllButStatus(obj, old)
		if r.PrepareStatusUpdate != nil {
			r.PrepareStatusUpdate(ctx, obj, old)
		}
	case "":
		if req.Version.Has("status") {
			copyStatus(obj, old)
		}
		if r.PrepareUpdate != nil {
			r.PrepareUpdate(ctx, obj, old)
		}
		s.countGeneration(req.Version, obj, old)
		if r.Discard != nil {
			r.Discard(ctx, obj, old)
		}
	default:
		if sub := r.subresource(req.Subresource); sub != nil && sub.Prepare != nil {
			sub.Prepare(ctx, obj, old)
		}
		s.countGeneration(req.Version, obj, old)
	}
	r.times().Round(obj)
}

func (s *Server) countGeneration(v *Version, obj, old apis.Object) {
	obj.SetGeneration(old.GetGeneration())
	r := v.resource
	if r.Generation && specChanged(obj, old, v.Has("status")) || r.NewGeneration != nil && r.NewGeneration(obj, old) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

// carrySystemFields takes from old what no update changes. An update that says
// that a deletion begins, or adds finalizers when one has begun, is for
// validation to refuse.
func carrySystemFields(obj, old apis.Object) {
	if obj.GetUID() == "" {
		obj.SetUID(old.GetUID())
	}
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	if t := old.GetDeletionTimestamp(); t != nil {
		obj.SetDeletionTimestamp(t)
	}
	if grace := old.GetDeletionGracePeriodSeconds(); grace != nil && obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(grace)
	}
	obj.SetGeneration(old.GetGeneration())
	obj.SetName(old.GetName())
}

func structOf(obj apis.Object) reflect.Value { return reflect.ValueOf(obj).Elem() }

func clearStatus(obj apis.Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		delete(u.Object, "status")
		return
	}
	if f := structOf(obj).FieldByName("Status"); f.IsValid() {
		f.SetZero()
	}
}

func copyStatus(obj, old apis.Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		if st, found := old.(*unstructured.Unstructured).Object["status"]; found {
			u.Object["status"] = st
		} else {
			delete(u.Object, "status")
		}
		return
	}
	if f := structOf(obj).FieldByName("Status"); f.IsValid() {
		f.Set(structOf(old).FieldByName("Status"))
	}
}

// keepAllButStatus leaves of obj only the status and the metadata that users
// own.
func keepAllButStatus(obj, old apis.Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		kept := customSpec(old.(*unstructured.Unstructured), true)
		for _, name := range []string{"metadata", "status"} {
			if value, found := u.Object[name]; found {
				kept[name] = value
			}
		}
		u.Object = kept
		return
	}
	v, o := structOf(obj), structOf(old)
	for i := range specFields(v.Type()) {
		v.Field(i).Set(o.Field(i))
	}
}

// specChanged compares everything but metadata and status; without a status
// subresource a custom resource's status is a field like any other.
func specChanged(obj, old apis.Object, hasStatus bool) bool {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return !equality.Semantic.DeepEqual(customSpec(u, hasStatus), customSpec(old.(*unstructured.Unstructured), hasStatus))
	}
	v, o := structOf(obj), structOf(old)
	for i := range specFields(v.Type()) {
		if !equality.Semantic.DeepEqual(v.Field(i).Interface(), o.Field(i).Interface()) {
			return true
		}
	}
	return false
}

// customSpec is what a custom resource has besides metadata and, if that is a
// subresource, status. Its values are the object's own.
func customSpec(u *unstructured.Unstructured, hasStatus bool) map[string]any {
	rest := maps.Clone(u.Object)
	delete(rest, "metadata")
	if hasStatus {
		delete(rest, "status")
	}
	return rest
}

// specFields yields the fields of a type besides kind, metadata and status.
func specFields(t reflect.Type) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range t.NumField() {
			switch t.Field(i).Name {
			case "TypeMeta", "ObjectMeta", "Status":
			default:
				if !yield(i) {
					return
				}
			}
		}
	}
}

// unchanged reports whether an update changes nothing but the times in
// managedFields, in which case nothing is written.
func unchanged(obj, old apis.Object) bool {
	om, nm := old.GetManagedFields(), obj.GetManagedFields()
	if len(om) != len(nm) {
		return false
	}
	for i := range om {
		a, b := om[i], nm[i]
		a.Time, b.Time = nil, nil
		if !equality.Semantic.DeepEqual(a, b) {
			return false
		}
	}
	rv := obj.GetResourceVersion()
	obj.SetManagedFields(om)
	obj.SetResourceVersion(old.GetResourceVersion())
	same := equality.Semantic.DeepEqual(obj, old)
	obj.SetManagedFields(nm)
	obj.SetResourceVersion(rv)
	return same
}

func (s *Server) validateCreate(ctx context.Context, v *Version, obj apis.Object) error {
	r := v.resource
	errs := validateMetadata(r, obj)
	if r.Validate != nil {
		errs = append(errs, r.Validate(ctx, obj)...)
	}
	if v.Validate != nil {
		errs = append(errs, v.Validate(ctx, obj, nil)...)
	}
	return invalid(r, obj.GetName(), errs)
}

// validateUpdate says things about metadata as often as upstream does, which
// checks it for all resources alike and then again for each.
func (s *Server) validateUpdate(ctx context.Context, req *Request, obj, old apis.Object) error {
	r := req.Resource()
	at := field.NewPath("metadata")
	errs := validation.ValidateObjectMetaAccessor(obj, r.Namespaced, path.ValidatePathSegmentName, at)
	errs = append(errs, validation.ValidateObjectMetaAccessorUpdate(obj, old, at)...)
	for _, check := range metadataChecks(req) {
		switch check {
		case apis.AsChanged:
			errs = append(errs, validation.ValidateObjectMetaAccessorUpdate(obj, old, at)...)
			errs = append(errs, finalizers(r, obj)...)
		case apis.AsNew:
			errs = append(errs, validateMetadata(r, obj)...)
		}
	}
	switch {
	case req.Subresource == "status":
		if r.ValidateStatusUpdate != nil {
			errs = append(errs, r.ValidateStatusUpdate(ctx, obj, old)...)
		}
	case req.Subresource != "":
		if sub := r.subresource(req.Subresource); sub != nil && sub.Validate != nil {
			errs = append(errs, sub.Validate(ctx, obj, old)...)
		}
	case r.ValidateUpdate != nil:
		errs = append(errs, r.ValidateUpdate(ctx, obj, old)...)
	case r.Validate != nil:
		errs = append(errs, r.Validate(ctx, obj)...)
	}
	if v := req.Version; req.Subresource == "" && v.Validate != nil {
		errs = append(errs, v.Validate(ctx, obj, old)...)
	}
	return invalid(r, obj.GetName(), errs)
}

// metadataChecks are the resource's own checks of an update's metadata.
func metadataChecks(req *Request) []apis.MetadataCheck {
	var checks []apis.MetadataCheck
	switch req.Subresource {
	case "":
		checks = req.Resource().MetadataOnUpdate
	case "status":
		checks = req.Resource().MetadataOnStatusUpdate
	}
	if checks == nil {
		return []apis.MetadataCheck{apis.AsChanged}
	}
	return checks
}

// validateMetadata checks the metadata of a new object.
func validateMetadata(r *Resource, obj apis.Object) field.ErrorList {
	check := validation.NameIsDNSSubdomain
	if r.ValidateName != nil {
		check = r.ValidateName
	}
	errs := validation.ValidateObjectMetaAccessor(obj, r.Namespaced, check, field.NewPath("metadata"))
	return append(errs, finalizers(r, obj)...)
}

// anyFinalizer are the groups whose objects, like custom ones, may have
// finalizers without a domain.
var anyFinalizer = map[string]bool{
	"admissionregistration.k8s.io": true, "apiextensions.k8s.io": true, "apiregistration.k8s.io": true,
	"coordination.k8s.io": true, "node.k8s.io": true, "policy": true,
}

// finalizers checks an object's finalizers, unless its kind may have any.
func finalizers(r *Resource, obj apis.Object) field.ErrorList {
	if r.Custom != nil || anyFinalizer[r.Group] {
		return nil
	}
	return checks.QualifiedFinalizers(obj)
}

func invalid(r *Resource, name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(r.GroupKind(), name, unversioned.Errors(errs))
}

func (r *Resource) subresource(name string) *apis.Subresource {
	for i := range r.Subresources {
		if r.Subresources[i].Name == name {
			return &r.Subresources[i]
		}
	}
	return nil
}

// parseRevision reads a resource version; empty is 0.
func parseRevision(rv string) (int64, error) {
	if rv == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(rv, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("invalid resource version: %w", field.Invalid(field.NewPath("resourceVersion"), rv, err.Error()))
	}
	return int64(n), nil
}
