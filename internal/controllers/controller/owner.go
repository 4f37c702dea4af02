package controller

import (
	"context"
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// OwnerName returns the name of o's controller if that is of the given kind,
// and an empty string otherwise.
func OwnerName(o metav1.Object, kind schema.GroupVersionKind) string {
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil || ref.Kind != kind.Kind {
		return ""
	}
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err != nil || gv.Group != kind.Group {
		return ""
	}
	return ref.Name
}

// Adoptable reports whether a change brings an object that somebody might want
// to adopt: one without a controller, which is new, has just lost one or has
// other labels than before.
func Adoptable[T interface {
	comparable
	metav1.Object
}](old, o T) bool {
	var none T
	if o == none || metav1.GetControllerOfNoCopy(o) != nil {
		return false
	}
	return old == none || metav1.GetControllerOfNoCopy(old) != nil || !maps.Equal(old.GetLabels(), o.GetLabels())
}

// Claim decides which of candidates owner controls. An object without a
// controller that matches is adopted, one that is owner's and no longer matches
// is released; objects that are being deleted are neither. It returns those
// that are owner's afterwards. live reads owner anew and is called before the
// first adoption: an owner that is gone or going must not adopt.
func Claim[T crclient.Object](ctx context.Context, c crclient.Client, owner crclient.Object, kind schema.GroupVersionKind,
	selector labels.Selector, candidates []T, live func(context.Context) (crclient.Object, error)) ([]T, error) {
	var claimed []T
	checked := false
	for _, o := range candidates {
		matches := selector.Matches(labels.Set(o.GetLabels()))
		if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
			switch {
			case ref.UID != owner.GetUID():
			case matches:
				claimed = append(claimed, o)
			case owner.GetDeletionTimestamp() == nil:
				if err := release(ctx, c, owner, o); err != nil {
					return nil, err
				}
			}
			continue
		}
		if !matches || owner.GetDeletionTimestamp() != nil || o.GetDeletionTimestamp() != nil {
			continue
		}
		if !checked {
			fresh, err := live(ctx)
			if err != nil {
				return nil, crclient.IgnoreNotFound(err)
			}
			if fresh.GetUID() != owner.GetUID() || fresh.GetDeletionTimestamp() != nil {
				continue
			}
			checked = true
		}
		adopted := o.DeepCopyObject().(T)
		adopted.SetOwnerReferences(append(adopted.GetOwnerReferences(), *metav1.NewControllerRef(owner, kind)))
		err := c.Patch(ctx, adopted, crclient.MergeFromWithOptions(o, crclient.MergeFromWithOptimisticLock{}))
		if crclient.IgnoreNotFound(err) != nil {
			return nil, err
		}
		if err == nil {
			claimed = append(claimed, adopted)
		}
	}
	return claimed, nil
}

func release[T crclient.Object](ctx context.Context, c crclient.Client, owner crclient.Object, o T) error {
	released := o.DeepCopyObject().(T)
	var refs []metav1.OwnerReference
	for _, ref := range o.GetOwnerReferences() {
		if ref.UID != owner.GetUID() {
			refs = append(refs, ref)
		}
	}
	released.SetOwnerReferences(refs)
	return crclient.IgnoreNotFound(c.Patch(ctx, released, crclient.MergeFromWithOptions(o, crclient.MergeFromWithOptimisticLock{})))
}
