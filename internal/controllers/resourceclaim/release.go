package resourceclaim

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// NewClaims makes the controller that gives claims free. Its keys are claims.
func NewClaims(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{d, d.Recorder("resource_claim")}
	return controller.New(d, "resourceclaim", 2, r.reconcileClaim,
		controller.Watch(d, &resourcev1.ResourceClaim{}, func(q controller.Queue, _, c *resourcev1.ResourceClaim) {
			if c != nil && (c.Status.Allocation != nil || len(c.Finalizers) > 0) {
				controller.Add(q, c.Namespace, c.Name)
			}
		}),
		controller.Watch(d, &corev1.Pod{}, func(q controller.Queue, old, pod *corev1.Pod) {
			switch {
			case pod == nil:
				pod = old
			case !ended(pod) || old != nil && ended(old):
				return
			}
			if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
				controller.Add(q, pod.Namespace, s.ResourceClaimName)
			}
			for i := range pod.Spec.ResourceClaims {
				if name := nameOf(pod, &pod.Spec.ResourceClaims[i]); name != "" {
					controller.Add(q, pod.Namespace, name)
				}
			}
		}))
}

func (r *reconciler) reconcileClaim(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var claim resourcev1.ResourceClaim
	if err := r.Cache.Get(ctx, key, &claim); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	var valid []resourcev1.ResourceClaimConsumerReference
	for _, consumer := range claim.Status.ReservedFor {
		keep, err := r.inUse(ctx, claim.Namespace, consumer)
		if err != nil {
			return reconcile.Result{}, err
		}
		if keep {
			valid = append(valid, consumer)
		}
	}
	ours := slices.Contains(claim.Finalizers, resourcev1.Finalizer)
	free := len(valid) == 0 && ours
	released := false
	if len(valid) < len(claim.Status.ReservedFor) || free && claim.Status.Allocation != nil && (len(claim.Status.ReservedFor) > 0 || claim.DeletionTimestamp != nil) {
		claim.Status.ReservedFor = valid
		if free {
			// Whoever allocated it does so again for the next pod.
			claim.Status.Allocation, claim.Status.Devices = nil, nil
			released = true
		}
		if err := r.Client.Status().Update(ctx, &claim); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	// A scheduler that is about to allocate a claim adds the finalizer first.
	if ours && claim.Status.Allocation == nil && (released || claim.DeletionTimestamp != nil) {
		i := slices.Index(claim.Finalizers, resourcev1.Finalizer)
		claim.Finalizers = slices.Delete(claim.Finalizers, i, i+1)
		if err := r.Client.Update(ctx, &claim); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	if len(valid) > 0 || claim.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, r.collect(ctx, &claim)
}

// inUse reports whether a consumer still needs the claim.
func (r *reconciler) inUse(ctx context.Context, namespace string, c resourcev1.ResourceClaimConsumerReference) (bool, error) {
	if c.APIGroup != "" || c.Resource != "pods" {
		// Not known: whoever reserved it gives it free.
		return true, nil
	}
	var pod corev1.Pod
	key := types.NamespacedName{Namespace: namespace, Name: c.Name}
	err := r.Cache.Get(ctx, key, &pod, crclient.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) || err == nil && pod.UID != c.UID {
		// The device may be in use: the cache is not enough.
		err = r.Client.Get(ctx, key, &pod, crclient.UnsafeDisableDeepCopy)
	}
	if err != nil {
		return false, crclient.IgnoreNotFound(err)
	}
	return pod.UID == c.UID && !ended(&pod), nil
}

// collect deletes the claim of a pod that has ended.
func (r *reconciler) collect(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	owner := metav1.GetControllerOfNoCopy(claim)
	if owner == nil || owner.Kind != "Pod" || owner.APIVersion != "v1" {
		return nil
	}
	var pod corev1.Pod
	err := r.Cache.Get(ctx, types.NamespacedName{Namespace: claim.Namespace, Name: owner.Name}, &pod, crclient.UnsafeDisableDeepCopy)
	if err != nil || pod.UID != owner.UID || !ended(&pod) {
		// Of pods that are gone the garbage collector takes care.
		return crclient.IgnoreNotFound(err)
	}
	return crclient.IgnoreNotFound(r.Client.Delete(ctx, claim, crclient.Preconditions{UID: &claim.UID}))
}
