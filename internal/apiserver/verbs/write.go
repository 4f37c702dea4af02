package verbs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/authz"
	"skiff/internal/store"
	"skiff/internal/store/cache"
)

// maxAttempts bounds how often an unconditional write is tried again because
// somebody else was faster.
const maxAttempts = 64

type warningsKey struct{}

// WithWarnings returns ctx with a receiver of warnings for the requester.
func WithWarnings(ctx context.Context, warn func(text string)) context.Context {
	return context.WithValue(ctx, warningsKey{}, warn)
}

// Warn warns the requester.
func Warn(ctx context.Context, text string) {
	if f, ok := ctx.Value(warningsKey{}).(func(string)); ok {
		f(text)
	}
}

type userAgentKey struct{}

// WithUserAgent returns ctx with the requester's user agent, from which the
// default field manager is taken.
func WithUserAgent(ctx context.Context, userAgent string) context.Context {
	return context.WithValue(ctx, userAgentKey{}, userAgent)
}

func manager(ctx context.Context, name string) string {
	agent, _ := ctx.Value(userAgentKey{}).(string)
	return defaultManager(name, agent)
}

func isDryRun(v []string) bool { return len(v) > 0 }

// Create stores obj, which is in the request's version and belongs to the
// server from now on.
func (s *Server) Create(ctx context.Context, req *Request, obj apis.Object, o *metav1.CreateOptions) (*cache.Entry, error) {
	if err := CheckCreateOptions(o); err != nil {
		return nil, err
	}
	if err := checkNamespace(req, obj); err != nil {
		return nil, err
	}
	uniqueOwners(ctx, obj, "")
	hub, err := req.Version.ToHub(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return s.create(ctx, req, hub, o, true)
}

// create stores a defaulted object. track says whether the creator comes to
// own its fields (not when apply has said so already).
func (s *Server) create(ctx context.Context, req *Request, obj apis.Object, o *metav1.CreateOptions, track bool) (*cache.Entry, error) {
	if c := req.Resource().Custom; c != nil {
		done, ok := c.Creating()
		if !ok {
			err := apierrors.NewMethodNotSupported(req.qualified(), "create")
			err.ErrStatus.Message = "create not allowed while custom resource definition is terminating"
			return nil, err
		}
		defer done()
	}
	named := *req
	named.Name = obj.GetName()
	wipeSystemFields(obj)
	if track {
		if err := s.trackCreate(&named, obj, manager(ctx, o.FieldManager)); err != nil {
			return nil, err
		}
	}
	a := s.attributes(ctx, admission.Create, &named, obj, nil, o, isDryRun(o.DryRun))
	if err := s.mutate(ctx, a, obj); err != nil {
		return nil, err
	}
	uniqueOwners(ctx, obj, afterAdmission)
	if obj.GetName() != "" || obj.GetGenerateName() == "" {
		return s.createMutated(ctx, &named, a, obj)
	}
	for attempt := 1; ; attempt++ {
		try := obj
		if attempt < nameAttempts {
			try = obj.DeepCopyObject().(apis.Object)
		}
		try.SetName(s.names(obj.GetGenerateName()))
		named.Name = try.GetName()
		e, err := s.createMutated(ctx, &named, a, try)
		if err == nil || !apierrors.IsAlreadyExists(err) {
			return e, err
		}
		if attempt == nameAttempts {
			return nil, apierrors.NewGenerateNameConflict(req.qualified(), try.GetName(), 1)
		}
	}
}

// createMutated stores an object that has its name and that admission has
// changed.
func (s *Server) createMutated(ctx context.Context, req *Request, a *admission.Attributes, obj apis.Object) (*cache.Entry, error) {
	s.prepareCreate(ctx, req.Version, obj)
	a.Name, a.Object = obj.GetName(), obj
	undo, err := s.admission.Complete(ctx, a)
	if err != nil {
		return nil, err
	}
	e, err := s.createCompleted(ctx, req, a, obj)
	// After errors of the server the object may have been stored.
	if err != nil && !apierrors.IsTimeout(err) && !apierrors.IsInternalError(err) {
		undo()
	}
	return e, err
}

// createCompleted stores an object that lacks nothing, if nobody objects.
func (s *Server) createCompleted(ctx context.Context, req *Request, a *admission.Attributes, obj apis.Object) (*cache.Entry, error) {
	r := req.Resource()
	if err := s.validateCreate(ctx, req.Version, obj); err != nil {
		return nil, err
	}
	if r.Warnings != nil {
		for _, w := range r.Warnings(ctx, obj, nil) {
			Warn(ctx, w)
		}
	}
	if err := s.admission.Validate(ctx, a); err != nil {
		return nil, err
	}
	r.lists().Round(obj)
	key := r.Collection.Key(obj.GetNamespace(), obj.GetName())
	exists := func() error {
		err := apierrors.NewAlreadyExists(req.qualified(), obj.GetName())
		if e := r.Collection.Get(key); e != nil {
			if old, _ := e.Object(); old != nil && old.GetDeletionTimestamp() != nil {
				err.ErrStatus.Message = "object is being deleted: " + err.ErrStatus.Message
			}
		}
		return err
	}
	if a.DryRun {
		if err := s.account(ctx, a); err != nil {
			return nil, err
		}
		if err := s.cache.Sync(ctx); err != nil {
			return nil, unavailable(err)
		}
		if r.Collection.Get(key) != nil {
			return nil, exists()
		}
		return cache.DetachedEntry(key, obj), nil
	}
	if version, err := versionOf(obj); err == nil && version != 0 {
		return nil, errVersionOnCreate
	}
	e, err := s.commitAccounted(ctx, a, r, key, obj, 0)
	if isStoreConflict(err) {
		return nil, exists()
	}
	return e, err
}

// errVersionOnCreate comes last, and without a reason, as upstream's does, whose
// storage finds it.
var errVersionOnCreate = &apierrors.StatusError{ErrStatus: metav1.Status{
	Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: "resourceVersion should not be set on objects to be created",
}}

// trackCreate records in obj's managedFields that the manager set all that it
// holds.
func (s *Server) trackCreate(req *Request, obj apis.Object, manager string) error {
	if w := req.Version.newFields(); w != nil && len(obj.GetManagedFields()) == 0 {
		if fields, ok := w.Of(obj); ok {
			obj.SetManagedFields(s.owner(req, manager, fields))
			return nil
		}
	}
	return s.trackUpdate(req, req.Version.working().Version.New(), obj, manager)
}

// owner is the record of a manager that has set fields, if there are any.
func (s *Server) owner(req *Request, manager string, fields []byte) []metav1.ManagedFieldsEntry {
	if fields == nil {
		return nil
	}
	now := metav1.NewTime(s.clock.Now())
	return []metav1.ManagedFieldsEntry{{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: req.Version.GroupVersion().String(),
		Time: &now, FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: fields},
	}}
}

// trackUpdate records in obj's managedFields that the manager set what differs
// from live.
func (s *Server) trackUpdate(req *Request, live, obj apis.Object, manager string) error {
	fm, err := req.Version.fieldManager(req.Subresource)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if fm == nil {
		return nil
	}
	gvk := req.Version.workingGVK()
	live = cache.ShallowCopy(live)
	live.GetObjectKind().SetGroupVersionKind(gvk)
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	fm.UpdateNoErrors(live, obj, manager)
	clearKind(obj)
	return nil
}

// clearKind empties the type meta of typed objects, which is put back when
// they are encoded; objects without a Go type keep theirs.
func clearKind(obj apis.Object) {
	if _, typed := obj.(protobufMarshaler); typed {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
}

// account asks the accountants whether they would let a write through.
func (s *Server) account(ctx context.Context, a *admission.Attributes) error {
	_, done, err := s.admission.Account(ctx, a)
	if err == nil {
		done()
	}
	return err
}

// commitAccounted is commit together with what the accountants of the write
// that a describes want stored with it.
func (s *Server) commitAccounted(ctx context.Context, a *admission.Attributes, r *Resource, key string, obj apis.Object, expect int64) (*cache.Entry, error) {
	for range maxAttempts {
		entries, done, err := s.admission.Account(ctx, a)
		if err != nil {
			return nil, err
		}
		e, err := s.commit(ctx, r, key, obj, expect, entries...)
		done()
		if conflict, ok := errors.AsType[*store.ConflictError](err); !ok || conflict.Key == key {
			return e, err
		}
		// An account was changed by another server.
		if err := s.cache.Sync(ctx); err != nil {
			return nil, unavailable(err)
		}
	}
	return nil, apierrors.NewConflict(r.GroupResource(), obj.GetName(), errors.New("what it counts for is changing too fast, please try again"))
}

// commit writes obj at key if the key's revision is expect, and entries if
// theirs is what they say, and waits until the cache shows it. The error is
// *store.ConflictError or an API error.
func (s *Server) commit(ctx context.Context, r *Resource, key string, obj apis.Object, expect int64, entries ...admission.Entry) (*cache.Entry, error) {
	op, err := operation(ctx, r, key, obj, expect)
	if err != nil {
		return nil, err
	}
	ops := append(make([]store.Op, 0, 1+len(entries)), op)
	for _, entry := range entries {
		other := s.Lookup(entry.Resource)
		if entry.Object.GetResourceVersion() == "" {
			s.prepareCreate(ctx, other.Versions[0], entry.Object)
		}
		expect, err := parseRevision(entry.Object.GetResourceVersion())
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		op, err := operation(ctx, other, other.Collection.Key(entry.Object.GetNamespace(), entry.Object.GetName()), entry.Object, expect)
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	rev, err := s.txn(ctx, r, ops...)
	if err != nil {
		return nil, err
	}
	if e := r.Collection.Get(key); e != nil && e.Revision == rev {
		return e, nil
	}
	// Somebody changed it again already: answer what was written here.
	if obj.GetResourceVersion() == "" {
		obj.SetResourceVersion(strconv.FormatInt(rev, 10))
	}
	return cache.DetachedEntry(key, obj), nil
}

// operation is the write of obj.
func operation(ctx context.Context, r *Resource, key string, obj apis.Object, expect int64) (store.Op, error) {
	obj.SetResourceVersion("")
	clearKind(obj)
	stored, converted, err := r.stored(ctx, obj)
	if err != nil {
		return store.Op{}, err
	}
	value, err := storageEncode(&r.Hub, stored)
	if err != nil {
		return store.Op{}, apierrors.NewInternalError(err)
	}
	op := store.Op{Key: key, Value: value, Expect: expect}
	if !converted {
		op.Decoded = obj
	}
	if r.TTL != nil {
		op.TTL = r.TTL(obj)
	}
	return op, nil
}

// txn carries out operations of which the first is about an object of r.
func (s *Server) txn(ctx context.Context, r *Resource, ops ...store.Op) (int64, error) {
	name := operationUpdate
	switch {
	case ops[0].Delete:
		name = operationDelete
	case ops[0].Expect == 0:
		name = operationCreate
	}
	began := time.Now()
	rev, err := s.engine.Txn(ctx, ops...)
	r.counts.operated(name, began, err)
	if isStoreConflict(err) {
		return 0, err
	}
	if err != nil {
		return 0, unavailable(err)
	}
	// The write is durable: whatever happens now, it is not an error of it.
	if err := s.cache.WaitFor(ctx, rev); err != nil {
		return 0, unavailable(err)
	}
	return rev, nil
}

func unavailable(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return apierrors.NewTimeoutError("the request did not finish in time: "+err.Error(), 0)
	}
	return apierrors.NewInternalError(err)
}

// modify replaces the object that req names by what change makes of it, under
// compare-and-swap, trying again when somebody else was faster. change gets
// the shared stored object and returns a private one that is admitted and
// valid. An object whose deletion has begun and which nothing holds any more
// is removed instead.
func (s *Server) modify(ctx context.Context, req *Request, dryRun bool, change func(old apis.Object) (apis.Object, error)) (*cache.Entry, error) {
	r := req.Resource()
	key := req.key()
	fresh := false
	refresh := func() error {
		fresh = true
		if err := s.cache.Sync(ctx); err != nil {
			return unavailable(err)
		}
		return nil
	}
	for range maxAttempts {
		entry := r.Collection.Get(key)
		if entry == nil && !fresh {
			if err := refresh(); err != nil {
				return nil, err
			}
			entry = r.Collection.Get(key)
		}
		if entry == nil {
			return nil, apierrors.NewNotFound(req.qualified(), req.Name)
		}
		old, err := req.Version.workingObject(ctx, entry)
		if err != nil {
			return nil, err
		}
		obj, err := change(old)
		if err != nil {
			if apierrors.IsConflict(err) && !fresh {
				// The cache may lag behind another server's write.
				if err := refresh(); err != nil {
					return nil, err
				}
				if now := r.Collection.Get(key); now != nil && now.Revision != entry.Revision {
					continue
				}
			}
			return nil, err
		}
		e, err := s.replace(ctx, req, entry, old, obj, dryRun)
		if !isStoreConflict(err) {
			return e, err
		}
		if err := refresh(); err != nil {
			return nil, err
		}
	}
	return nil, conflictError(req, errors.New(modifiedText))
}

// replace stores obj in the place of old, which is entry's, if that is what is
// stored; the error is *store.ConflictError if it is not.
func (s *Server) replace(ctx context.Context, req *Request, entry *cache.Entry, old, obj apis.Object, dryRun bool) (*cache.Entry, error) {
	r, key := req.Resource(), entry.Key
	// Some subresources change it without preparation.
	r.lists().Round(obj)
	if r.finished(obj) {
		if !dryRun {
			if _, err := s.txn(ctx, r, store.Op{Key: key, Delete: true, Expect: entry.Revision}); err != nil {
				return nil, err
			}
		}
		return cache.DetachedEntry(key, obj), nil
	}
	began := time.Now()
	same := unchanged(obj, old)
	s.metrics.compared(same, began)
	if same && !r.stale(entry) && !s.staleValue(ctx, key) {
		return entry, nil
	}
	a := s.attributes(ctx, admission.Update, req, obj, old, nil, dryRun)
	if dryRun {
		if err := s.account(ctx, a); err != nil {
			return nil, err
		}
		obj.SetResourceVersion(old.GetResourceVersion())
		return cache.DetachedEntry(key, obj), nil
	}
	return s.commitAccounted(ctx, a, r, key, obj, entry.Revision)
}

const modifiedText = "the object has been modified; please apply your changes to the latest version and try again"

func conflictError(req *Request, err error) error {
	return apierrors.NewConflict(req.qualified(), req.Name, err)
}

// finished reports whether obj's deletion has begun and nothing holds it.
func (r *Resource) finished(obj apis.Object) bool {
	if obj.GetDeletionTimestamp() == nil {
		return false
	}
	keep := r.BeforeDelete != nil && r.BeforeDelete(obj)
	if keep {
		r.times().Round(obj) // it may note when
	}
	if keep || len(obj.GetFinalizers()) > 0 {
		return false
	}
	g := obj.GetDeletionGracePeriodSeconds()
	return g == nil || *g == 0
}

// versionOf is the version that a writer had in mind, 0 if any will do. What is
// no number is an error of the server, as with upstream.
func versionOf(obj apis.Object) (uint64, error) {
	rv := obj.GetResourceVersion()
	if rv == "" {
		return 0, nil
	}
	version, err := strconv.ParseUint(rv, 10, 64)
	if err != nil {
		return 0, errors.New(err.Error())
	}
	return version, nil
}

// checkVersion compares the version that the writer had in mind with what is
// stored.
func checkVersion(req *Request, obj, old apis.Object) error {
	version, err := versionOf(obj)
	if err != nil {
		return err
	}
	if version == 0 {
		if req.Resource().RequireResourceVersion {
			// Upstream names the resource where it has the kind.
			return apierrors.NewInvalid(schema.GroupKind{Group: req.Resource().Group, Kind: req.Resource().Names.Resource}, req.Name, requiredResourceVersion())
		}
		return nil
	}
	if stored, err := versionOf(old); err != nil || version != stored {
		return conflictError(req, errors.New(modifiedText))
	}
	return nil
}

// checkIdentity makes sure that an object is replaced by a version of itself. What
// patches say of it is for validation to refuse.
func checkIdentity(req *Request, obj, old apis.Object, dryRun bool) error {
	if uid := obj.GetUID(); uid != "" && uid != old.GetUID() {
		return conflictError(req, identityError(req, uid, old.GetUID(), dryRun))
	}
	return nil
}

// identityError says that an object is not the one that the writer had in mind.
func identityError(req *Request, uid, old types.UID, dryRun bool) error {
	key := req.key()
	if dryRun {
		key = strings.TrimPrefix(key, "/registry")
	}
	return fmt.Errorf("StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: %v, UID in object meta: %v", key, uid, old)
}

// forgetVersion takes the version off an object that is written as if there were
// one already: as with upstream there is none to compare with.
func forgetVersion(obj apis.Object, dryRun []string) error {
	if _, err := versionOf(obj); err != nil {
		return err
	}
	if !isDryRun(dryRun) {
		obj.SetResourceVersion("")
	}
	return nil
}

// Update replaces an object; obj is in the request's version and belongs to
// the server from now on. created tells that it did not exist.
func (s *Server) Update(ctx context.Context, req *Request, obj apis.Object, o *metav1.UpdateOptions) (e *cache.Entry, created bool, err error) {
	if err := CheckUpdateOptions(o); err != nil {
		return nil, false, err
	}
	if err := checkName(req, obj); err != nil {
		return nil, false, err
	}
	uniqueOwners(ctx, obj, "")
	hub, err := req.Version.ToHub(obj)
	if err != nil {
		return nil, false, apierrors.NewBadRequest(err.Error())
	}
	ctx = authz.WithVerb(ctx, "update")
	e, err = s.modify(ctx, req, isDryRun(o.DryRun), func(old apis.Object) (apis.Object, error) {
		if err := checkIdentity(req, hub, old, isDryRun(o.DryRun)); err != nil {
			return nil, err
		}
		return s.admitUpdate(ctx, req, hub.DeepCopyObject().(apis.Object), old, o, true)
	})
	if apierrors.IsNotFound(err) && req.Subresource == "" && req.Resource().AllowCreateOnUpdate {
		if uid := hub.GetUID(); uid != "" {
			return nil, false, conflictError(req, identityError(req, uid, "", isDryRun(o.DryRun)))
		}
		if err := forgetVersion(hub, o.DryRun); err != nil {
			return nil, false, err
		}
		e, err = s.create(ctx, req, hub, &metav1.CreateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}, true)
		return e, err == nil, err
	}
	return e, false, err
}

// admitUpdate takes a defaulted object through field tracking, admission,
// preparation and validation. Admission comes before preparation, which takes
// back what nobody may change.
func (s *Server) admitUpdate(ctx context.Context, req *Request, obj, old apis.Object, o *metav1.UpdateOptions, track bool) (apis.Object, error) {
	r := req.Resource()
	carrySystemFields(obj, old)
	if track {
		if err := s.trackUpdate(req, old, obj, manager(ctx, o.FieldManager)); err != nil {
			return nil, err
		}
	}
	a := s.attributes(ctx, admission.Update, req, obj, old, o, isDryRun(o.DryRun))
	if err := s.mutate(ctx, a, obj); err != nil {
		return nil, err
	}
	uniqueOwners(ctx, obj, afterAdmission)
	if err := checkVersion(req, obj, old); err != nil {
		return nil, err
	}
	s.prepareUpdate(ctx, req, obj, old)
	undo, err := s.admission.Complete(ctx, a)
	if err != nil {
		return nil, err
	}
	obj.SetResourceVersion(old.GetResourceVersion())
	if err := s.validateUpdate(ctx, req, obj, old); err != nil {
		undo()
		return nil, err
	}
	if r.Warnings != nil && req.Subresource == "" {
		for _, w := range r.Warnings(ctx, obj, old) {
			Warn(ctx, w)
		}
	}
	if err := s.admission.Validate(ctx, a); err != nil {
		undo()
		return nil, err
	}
	return obj, nil
}
