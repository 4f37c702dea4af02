package dynamicresources

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// Devices may have to be made ready for the node before the pod is bound, for
// instance attached to it (KEP-5007): their drivers say so by conditions.

var errLate = errors.New("device binding timeout")

// isReady reports whether all devices of the claim are ready; the error says
// that one will never be.
func isReady(claim *resourcev1.ResourceClaim) (bool, error) {
	if claim.Status.Allocation == nil {
		return false, nil
	}
	for i := range claim.Status.Allocation.Devices.Results {
		result := &claim.Status.Allocation.Devices.Results[i]
		if len(result.BindingConditions) == 0 {
			continue
		}
		at := slices.IndexFunc(claim.Status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool {
			return d.Driver == result.Driver && d.Pool == result.Pool && d.Device == result.Device
		})
		if at < 0 {
			return false, nil
		}
		conditions := claim.Status.Devices[at].Conditions
		for _, kind := range result.BindingFailureConditions {
			if c := apimeta.FindStatusCondition(conditions, kind); c != nil && c.Status == metav1.ConditionTrue {
				return false, fmt.Errorf("claim %s binding failed: reason=%s, message=%q", claim.Name, c.Reason, c.Message)
			}
		}
		for _, kind := range result.BindingConditions {
			if !apimeta.IsStatusConditionTrue(conditions, kind) {
				return false, nil
			}
		}
	}
	return true, nil
}

// waits reports whether some device of the claim has to become ready.
func waits(claim *resourcev1.ResourceClaim) bool {
	return claim.Status.Allocation != nil && slices.ContainsFunc(claim.Status.Allocation.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool {
		return len(r.BindingConditions) > 0
	})
}

// isLate reports whether the claim's devices have had enough time.
func (p *Plugin) isLate(claim *resourcev1.ResourceClaim) bool {
	return waits(claim) && claim.Status.Allocation.AllocationTimestamp != nil &&
		claim.Status.Allocation.AllocationTimestamp.Add(p.BindingTimeout).Before(p.clock.Now())
}

// await returns when the devices of all claims are ready, or an error when they
// will not be.
func (p *Plugin) await(ctx context.Context, pod *corev1.Pod, node string, claims []*resourcev1.ResourceClaim) error {
	if !slices.ContainsFunc(claims, waits) {
		return nil
	}
	p.client.Recorder(pod.Spec.SchedulerName).Eventf(pod, corev1.EventTypeNormal, "BindingConditionsPending", "waiting for binding conditions for device on node %s", node)
	return p.Await(ctx, p.clock, p.BindingTimeout, errLate, func() (bool, error) { return p.allReady(ctx, claims) })
}

func (p *Plugin) allReady(ctx context.Context, claims []*resourcev1.ResourceClaim) (bool, error) {
	for _, c := range claims {
		claim := &resourcev1.ResourceClaim{}
		if err := p.client.Client.Get(ctx, crclient.ObjectKeyFromObject(c), claim); err != nil {
			return false, err
		}
		if ready, err := isReady(claim); !ready || err != nil {
			if err == nil && p.isLate(claim) {
				err = fmt.Errorf("claim %s binding timeout", claim.Name)
			}
			return false, err
		}
	}
	return true, nil
}
