package crd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

// Between attempts to remove the objects of a definition, after a failure.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute
)

// startCleanup removes the objects of a definition that is being deleted, and
// then its finalizer; d is nil if it was never served.
func (c *Controller) startCleanup(ctx context.Context, name string, d *definition) {
	c.cleaning.Lock()
	defer c.cleaning.Unlock()
	if c.cleaning.names[name] {
		return
	}
	c.cleaning.names[name] = true
	go func() {
		defer func() {
			c.cleaning.Lock()
			defer c.cleaning.Unlock()
			delete(c.cleaning.names, name)
		}()
		if d != nil {
			d.life.settle()
		}
		wait := firstRetry
		for {
			err := c.cleanUp(ctx, name)
			if err == nil || ctx.Err() != nil {
				return
			}
			c.Log.Warn("the objects of a custom resource cannot be removed yet", "definition", name, "error", err)
			select {
			case <-ctx.Done():
				return
			case <-c.Clock.After(wait):
			}
			wait = min(2*wait, lastRetry)
		}
	}()
}

func (c *Controller) cleanUp(ctx context.Context, name string) error {
	crd, err := c.terminating(ctx, name, apiextensionsv1.CustomResourceDefinitionCondition{
		Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionInProgress", Message: "CustomResource deletion is in progress",
	}, false)
	if err != nil || crd == nil {
		return err
	}
	if !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
		_, err := c.terminating(ctx, name, apiextensionsv1.CustomResourceDefinitionCondition{
			Status: apiextensionsv1.ConditionFalse, Reason: "NeverEstablished", Message: "resource was never established",
		}, true)
		return err
	}
	if err := c.removeObjects(ctx, schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Status.AcceptedNames.Plural}); err != nil {
		// The condition is for people; the error is what counts.
		_, _ = c.terminating(ctx, name, apiextensionsv1.CustomResourceDefinitionCondition{
			Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionFailed", Message: fmt.Sprintf("could not issue all deletes: %v", err),
		}, false)
		return err
	}
	_, err = c.terminating(ctx, name, apiextensionsv1.CustomResourceDefinitionCondition{
		Status: apiextensionsv1.ConditionFalse, Reason: "InstanceDeletionCompleted", Message: "removed all instances",
	}, true)
	return err
}

// removeObjects deletes all objects of a resource and waits until they are
// gone. Another server may still let some be created; they are deleted too.
func (c *Controller) removeObjects(ctx context.Context, gr schema.GroupResource) error {
	for {
		err := c.removeWatched(ctx, gr)
		if !errors.Is(err, cache.ErrClosed) && !errors.Is(err, cache.ErrFellBehind) {
			return err
		}
	}
}

func (c *Controller) removeWatched(ctx context.Context, gr schema.GroupResource) error {
	r := c.Verbs.Lookup(gr)
	if r == nil {
		return fmt.Errorf("%s are not served", gr)
	}
	snap, w := r.Collection.SnapshotAndWatch(cache.Scope{})
	defer w.Stop()
	for left, more := snap.Len(), true; left > 0; {
		if more {
			if _, err := c.Verbs.DeleteCollection(ctx, &verbs.Request{Version: r.Storage()}, &metav1.DeleteOptions{}, &verbs.ListOptions{}); err != nil {
				return err
			}
			more = false
		}
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, ev := range events {
			switch {
			case ev.New == nil:
				left--
			case ev.Old == nil:
				left, more = left+1, true
			}
		}
	}
	return nil
}

// terminating sets the condition Terminating and, if done is set, takes the
// finalizer away. It returns nil when there is nothing left to do.
func (c *Controller) terminating(ctx context.Context, name string, condition apiextensionsv1.CustomResourceDefinitionCondition, done bool) (*apiextensionsv1.CustomResourceDefinition, error) {
	condition.Type = apiextensionsv1.Terminating
	for {
		e, err := c.Verbs.Get(ctx, &verbs.Request{Version: c.resource.Versions[0], Name: name}, &metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		obj, err := e.Object()
		if err != nil {
			return nil, err
		}
		crd := withOwnStatus(obj.(*apiextensionsv1.CustomResourceDefinition))
		if crd.DeletionTimestamp == nil || !apihelpers.CRDHasFinalizer(crd, apiextensionsv1.CustomResourceCleanupFinalizer) {
			return nil, nil
		}
		apihelpers.SetCRDCondition(crd, condition)
		if done {
			apihelpers.CRDRemoveFinalizer(crd, apiextensionsv1.CustomResourceCleanupFinalizer)
		}
		switch err := c.write(ctx, crd); {
		case err == nil:
			return crd, nil
		case apierrors.IsNotFound(err):
			return nil, nil
		case !apierrors.IsConflict(err):
			return nil, err
		}
	}
}
