package verbs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/store"
	"skiff/internal/store/cache"
)

// Delete begins or finishes the deletion of an object. The entry is its last
// state; gone tells whether it is removed now, rather than waiting for its
// grace period or finalizers.
func (s *Server) Delete(ctx context.Context, req *Request, o *metav1.DeleteOptions) (e *cache.Entry, gone bool, err error) {
	if err := validateDeleteOptions(o); err != nil {
		return nil, false, err
	}
	r := req.Resource()
	dryRun := isDryRun(o.DryRun)
	key := req.key()
	for attempt := range maxAttempts {
		entry := r.Collection.Get(key)
		if entry == nil || attempt > 0 {
			if err := s.cache.Sync(ctx); err != nil {
				return nil, false, unavailable(err)
			}
			entry = r.Collection.Get(key)
		}
		if entry == nil {
			return nil, false, apierrors.NewNotFound(req.qualified(), req.Name)
		}
		old, err := req.Version.workingObject(ctx, entry)
		if err != nil {
			return nil, false, err
		}
		if r.Permanent != nil {
			if why := r.Permanent(old); why != "" {
				return nil, false, apierrors.NewForbidden(req.qualified(), req.Name, errors.New(why))
			}
		}
		if err := checkDeletePreconditions(req, old, o.Preconditions); err != nil {
			return nil, false, err
		}
		a := s.attributes(ctx, admission.Delete, req, nil, old, o, dryRun)
		if err := s.admission.Mutate(ctx, a); err != nil {
			return nil, false, err
		}
		if err := s.admission.Validate(ctx, a); err != nil {
			return nil, false, err
		}
		obj := old.DeepCopyObject().(apis.Object)
		changed := s.beginDeletion(r, obj, o)
		r.times().Round(obj)
		if r.finished(obj) {
			last := old
			if r.GracePeriod != nil && old.GetDeletionTimestamp() != nil {
				last = obj // its grace period was cut short
			}
			if !dryRun {
				rev, err := s.txn(ctx, r, store.Op{Key: key, Delete: true, Expect: entry.Revision})
				if isStoreConflict(err) {
					continue
				}
				if err != nil {
					return nil, false, err
				}
				last = cache.ShallowCopy(last)
				last.SetResourceVersion(fmt.Sprint(rev))
			}
			return cache.DetachedEntry(key, last), true, nil
		}
		if !changed || unchanged(obj, old) {
			return entry, false, nil
		}
		if dryRun {
			return cache.DetachedEntry(key, obj), false, nil
		}
		e, err := s.commit(ctx, r, key, obj, entry.Revision)
		if isStoreConflict(err) {
			continue
		}
		return e, false, err
	}
	return nil, false, conflictError(req, errors.New(modifiedText))
}

// isStoreConflict reports whether an object was not in the state that an operation
// of the store expected.
func isStoreConflict(err error) bool {
	_, ok := errors.AsType[*store.ConflictError](err)
	return ok
}

func checkDeletePreconditions(req *Request, old apis.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	// Upstream names the kind where it has the resource elsewhere.
	conflict := func(format string, args ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Group: req.Version.Group, Resource: req.Version.Kind}, req.Name, fmt.Errorf(format, args...))
	}
	if p.UID != nil && *p.UID != old.GetUID() {
		return conflict("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, old.GetUID())
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion() {
		return conflict("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, old.GetResourceVersion())
	}
	return nil
}

// beginDeletion marks obj as being deleted: grace period, finalizers for the
// propagation policy, deletion timestamp. It reports whether it changed obj.
func (s *Server) beginDeletion(r *Resource, obj apis.Object, o *metav1.DeleteOptions) bool {
	changed := setPropagation(r, obj, o)
	grace := int64(0)
	if r.GracePeriod != nil {
		grace = r.GracePeriod(obj, o.GracePeriodSeconds)
	}
	if began := obj.GetDeletionTimestamp(); began != nil {
		// A deletion under way can only be made shorter.
		have := int64(0)
		if p := obj.GetDeletionGracePeriodSeconds(); p != nil {
			have = *p
		}
		if r.GracePeriod == nil || o.GracePeriodSeconds == nil || grace >= have {
			return changed
		}
		start := began.Add(-time.Duration(have) * time.Second)
		t := metav1.NewTime(start.Add(time.Duration(grace) * time.Second))
		obj.SetDeletionTimestamp(&t)
		obj.SetDeletionGracePeriodSeconds(&grace)
		return true
	}
	t := metav1.NewTime(s.clock.Now().Add(time.Duration(grace) * time.Second))
	obj.SetDeletionTimestamp(&t)
	if r.BeforeDelete == nil {
		obj.SetDeletionGracePeriodSeconds(&grace)
	}
	if obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	return true
}

// setPropagation keeps obj's two garbage collection finalizers in step with
// the wished policy; with none wished, finalizers that are there stay.
func setPropagation(r *Resource, obj apis.Object, o *metav1.DeleteOptions) bool {
	old := obj.GetFinalizers()
	policy := o.PropagationPolicy
	if policy == nil && o.OrphanDependents != nil {
		p := metav1.DeletePropagationBackground
		if *o.OrphanDependents {
			p = metav1.DeletePropagationOrphan
		}
		policy = &p
	}
	if policy == nil {
		if slices.Contains(old, metav1.FinalizerOrphanDependents) || slices.Contains(old, metav1.FinalizerDeleteDependents) || r.DefaultPropagation == "" {
			return false
		}
		policy = &r.DefaultPropagation
	}
	var finalizers []string
	for _, f := range old {
		if f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			finalizers = append(finalizers, f)
		}
	}
	switch *policy {
	case metav1.DeletePropagationOrphan:
		finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
	case metav1.DeletePropagationForeground:
		finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
	}
	if slices.Equal(old, finalizers) {
		return false
	}
	obj.SetFinalizers(finalizers)
	return true
}

// deleteWorkers is how many objects of a collection are deleted at a time, so
// that their commits share an fsync.
const deleteWorkers = 16

// DeleteCollection deletes what lo selects and returns the last states of what
// it deleted.
func (s *Server) DeleteCollection(ctx context.Context, req *Request, o *metav1.DeleteOptions, lo *ListOptions) (*ListResult, error) {
	if err := validateDeleteOptions(o); err != nil {
		return nil, err
	}
	list, err := s.List(ctx, req, lo)
	if err != nil {
		return nil, err
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		slots = make(chan struct{}, deleteWorkers)
	)
	for i, e := range list.Entries {
		obj, err := e.Object()
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		one := *req
		one.Namespace, one.Name, one.collective = obj.GetNamespace(), obj.GetName(), true
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			e, _, err := s.Delete(ctx, &one, o.DeepCopy())
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				list.Entries[i] = e
			} else if !apierrors.IsNotFound(err) && first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	return list, first
}
