package dynamicresources

import (
	"context"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
)

func reject(reason string) *framework.Status {
	return framework.NewStatus(framework.Unschedulable, name, reason)
}

// PostFilter takes the devices back from a claim of the pod that is in the way:
// nobody else uses them, but they are where the pod cannot be, or did not become
// ready. The claim is then allocated anew.
func (p *Plugin) PostFilter(pod *framework.PodInfo, t framework.Trial) (*framework.Nomination, *framework.Status) {
	if why := t.Rejected(); why != nil && why.Plugin != name {
		// Upstream's plugin has not seen the pod then, and these are its words.
		return nil, framework.NewStatus(framework.Failed, name, "not found")
	}
	r, _ := p.rule(pod.Pod)
	if r == nil || len(r.claims) == 0 && r.extended == nil {
		return nil, reject("no new claims to deallocate")
	}
	for _, claim := range r.unavailable(t) {
		if !idle(claim, pod.UID) {
			continue
		}
		return &framework.Nomination{MakeRoom: func(ctx context.Context) error {
			return p.deallocate(ctx, claim, pod.UID)
		}}, reject("deallocation of ResourceClaim completed")
	}
	if r.extended != nil && r.extended.stale != nil {
		return &framework.Nomination{MakeRoom: func(ctx context.Context) error {
			return p.remove(ctx, r.extended.stale)
		}}, reject("deletion of ResourceClaim completed")
	}
	return nil, reject("still not schedulable")
}

// idle reports whether nobody but the pod uses the claim.
func idle(claim *resourcev1.ResourceClaim, pod types.UID) bool {
	return !slices.ContainsFunc(claim.Status.ReservedFor, func(c resourcev1.ResourceClaimConsumerReference) bool { return c.UID != pod })
}

// unavailable returns the allocated claims that made some node not do.
func (r *rule) unavailable(t framework.Trial) []*resourcev1.ResourceClaim {
	all := slices.Clone(r.broken)
	for n, why := range t.Failures {
		if why != notHere {
			continue
		}
		for _, place := range r.places {
			if !slices.Contains(all, place.claim) && !place.Match(n.Node) {
				all = append(all, place.claim)
			}
		}
	}
	return all
}

func (p *Plugin) deallocate(ctx context.Context, old *resourcev1.ResourceClaim, pod types.UID) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		claim := &resourcev1.ResourceClaim{}
		if err := p.client.Client.Get(ctx, crclient.ObjectKeyFromObject(old), claim); err != nil {
			return crclient.IgnoreNotFound(err)
		}
		if claim.UID != old.UID || !idle(claim, pod) {
			return nil
		}
		claim.Status.ReservedFor, claim.Status.Allocation, claim.Status.Devices = nil, nil, nil
		return p.client.Client.Status().Update(ctx, claim)
	})
}

// remove deletes a claim that the scheduler made.
func (p *Plugin) remove(ctx context.Context, old *resourcev1.ResourceClaim) error {
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		claim := &resourcev1.ResourceClaim{}
		if err := p.client.Client.Get(ctx, crclient.ObjectKeyFromObject(old), claim); err != nil || claim.UID != old.UID {
			return err
		}
		i := slices.Index(claim.Finalizers, resourcev1.Finalizer)
		if i < 0 {
			return nil
		}
		claim.Finalizers = slices.Delete(claim.Finalizers, i, i+1)
		return p.client.Client.Update(ctx, claim)
	})
	if err == nil {
		err = p.client.Client.Delete(ctx, old, crclient.Preconditions{UID: &old.UID})
	}
	if apierrors.IsConflict(err) {
		return nil
	}
	return crclient.IgnoreNotFound(err)
}
