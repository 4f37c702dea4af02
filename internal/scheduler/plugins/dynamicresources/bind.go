package dynamicresources

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
)

// Reserve takes devices for the pod, as far as this scheduler is concerned.
func (p *Plugin) Reserve(pod *framework.PodInfo, node string) *framework.Status {
	r, why := p.rule(pod.Pod)
	if r == nil || why != nil {
		return why
	}
	n := &corev1.Node{}
	if err := p.client.Cache.Get(context.Background(), types.NamespacedName{Name: node}, n, crclient.UnsafeDisableDeepCopy); err != nil {
		return failed(err)
	}
	d, why := r.allocate(context.Background(), n)
	if why != nil {
		return why
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, claim := range d.claims {
		if claim != r.claims[i] {
			p.mu.allocated[claim.UID] = claim
		}
	}
	p.mu.decided[pod.UID] = d
	return nil
}

// forget drops what was assumed for the pod.
func (p *Plugin) forget(pod types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.mu.decided[pod]
	if d == nil {
		return
	}
	delete(p.mu.decided, pod)
	for _, claim := range d.claims {
		if p.mu.allocated[claim.UID] == claim {
			delete(p.mu.allocated, claim.UID)
		}
	}
}

// Unreserve gives the devices free again. Reservations that were written
// already stay until the pod is tried again or goes: then they are its own, or
// the claims' controller takes them back.
func (p *Plugin) Unreserve(pod *framework.PodInfo, _ string) { p.forget(pod.UID) }

// PreBind writes the allocations, and that the pod has reserved the claims, and
// returns when the devices are ready.
func (p *Plugin) PreBind(ctx context.Context, pod *corev1.Pod, node string) *framework.Status {
	p.mu.Lock()
	d := p.mu.decided[pod.UID]
	p.mu.Unlock()
	if d == nil {
		return nil
	}
	if err := p.carryOut(ctx, pod, node, d); err != nil {
		return framework.NewStatus(framework.Failed, name, fmt.Sprintf("running PreBind plugin %q: %v", name, err))
	}
	p.forget(pod.UID)
	return nil
}

func (p *Plugin) carryOut(ctx context.Context, pod *corev1.Pod, node string, d *decision) error {
	for _, claim := range d.claims {
		if err := p.bind(ctx, claim, pod); err != nil {
			return err
		}
	}
	claims := d.claims
	if d.extended != nil {
		made, err := p.makeExtended(ctx, pod, d)
		if err != nil {
			return err
		}
		claims = append(slices.Clip(claims), made)
	}
	return p.await(ctx, pod, node, claims)
}

func (p *Plugin) bind(ctx context.Context, decided *resourcev1.ResourceClaim, pod *corev1.Pod) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		claim := &resourcev1.ResourceClaim{}
		if err := p.client.Client.Get(ctx, crclient.ObjectKeyFromObject(decided), claim); err != nil {
			return err
		}
		switch {
		case claim.UID != decided.UID:
			return fmt.Errorf("resourceclaim %s was made anew", claim.Name)
		case claim.DeletionTimestamp != nil:
			return fmt.Errorf("claim %s got deleted in the meantime", claim.Name)
		case reserved(claim, pod.UID) && claim.Status.Allocation != nil:
			return nil
		}
		if claim.Status.Allocation == nil {
			// The finalizer first: an allocated claim must not vanish.
			if !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
				claim.Finalizers = append(claim.Finalizers, resourcev1.Finalizer)
				if err := p.client.Client.Update(ctx, claim); err != nil {
					return err
				}
			}
			claim.Status.Allocation = decided.Status.Allocation.DeepCopy()
			claim.Status.Allocation.AllocationTimestamp = &metav1.Time{Time: p.clock.Now()}
		} else if !equality.Semantic.DeepEqual(claim.Status.Allocation.Devices, decided.Status.Allocation.Devices) {
			return fmt.Errorf("claim %s got allocated in the meantime", claim.Name)
		}
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		err := p.client.Client.Status().Update(ctx, claim)
		if apierrors.IsInvalid(err) {
			return fmt.Errorf("claim %s: %w", claim.Name, err)
		}
		return err
	})
}
