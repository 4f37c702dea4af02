// Package devicetainteviction deletes pods that use a device which a driver has
// tainted with NoExecute, unless their claim tolerates it (KEP-5055).
package devicetainteviction

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/pods"
)

type reconciler struct {
	controller.Deps
	recorder record.EventRecorder
}

// New makes the controller. Its keys are pods.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{d, d.Recorder("device-taint-eviction")}
	return controller.New(d, "devicetainteviction", 1, r.reconcile,
		controller.Watch(d, &corev1.Pod{}, func(q controller.Queue, old, pod *corev1.Pod) {
			if pod != nil && len(pod.Spec.ResourceClaims) > 0 && pod.Spec.NodeName != "" && (old == nil || old.Spec.NodeName == "") {
				controller.Add(q, pod.Namespace, pod.Name)
			}
		}),
		controller.Watch(d, &resourcev1.ResourceClaim{}, func(q controller.Queue, old, c *resourcev1.ResourceClaim) {
			if c != nil {
				users(q, c)
			}
		}),
		controller.Watch(d, &resourcev1.ResourceSlice{}, func(q controller.Queue, old, s *resourcev1.ResourceSlice) {
			if s == nil || !tainted(s) && (old == nil || !tainted(old)) {
				return
			}
			var claims resourcev1.ResourceClaimList
			if err := d.Cache.List(context.Background(), &claims, crclient.UnsafeDisableDeepCopy); err != nil {
				d.Log.Error("listing claims", "error", err)
			}
			for i := range claims.Items {
				c := &claims.Items[i]
				if c.Status.Allocation == nil {
					continue
				}
				for _, result := range c.Status.Allocation.Devices.Results {
					if result.Driver == s.Spec.Driver && result.Pool == s.Spec.Pool.Name {
						users(q, c)
						break
					}
				}
			}
		}))
}

func users(q controller.Queue, c *resourcev1.ResourceClaim) {
	for _, consumer := range c.Status.ReservedFor {
		if consumer.APIGroup == "" && consumer.Resource == "pods" {
			controller.Add(q, c.Namespace, consumer.Name)
		}
	}
}

func tainted(s *resourcev1.ResourceSlice) bool {
	for i := range s.Spec.Devices {
		if len(s.Spec.Devices[i].Taints) > 0 {
			return true
		}
	}
	return false
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var pod corev1.Pod
	if err := r.Cache.Get(ctx, key, &pod, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" || pods.Finished(&pod) {
		return reconcile.Result{}, nil
	}
	at, err := r.deadline(ctx, &pod)
	if err != nil || at.IsZero() {
		return reconcile.Result{}, err
	}
	if left := at.Sub(r.Clock.Now()); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	next := pod.DeepCopy()
	pods.SetDisruptionTarget(next, "DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint", r.Clock.Now())
	if err := r.Client.Status().Patch(ctx, next, crclient.StrategicMergeFrom(&pod)); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	r.recorder.Event(&pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion")
	return reconcile.Result{}, crclient.IgnoreNotFound(r.Client.Delete(ctx, &pod, crclient.Preconditions{UID: &pod.UID}))
}

// deadline returns when the pod must go; zero for never.
func (r *reconciler) deadline(ctx context.Context, pod *corev1.Pod) (time.Time, error) {
	var first time.Time
	var published *resourcev1.ResourceSliceList
	for i := range pod.Spec.ResourceClaims {
		name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil || name == nil {
			continue
		}
		var claim resourcev1.ResourceClaim
		err = r.Cache.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: *name}, &claim, crclient.UnsafeDisableDeepCopy)
		if crclient.IgnoreNotFound(err) != nil {
			return first, err
		}
		if err != nil || claim.Status.Allocation == nil || !resourceclaim.IsReservedForPod(pod, &claim, false) {
			continue
		}
		if published == nil {
			published = &resourcev1.ResourceSliceList{}
			if err := r.Cache.List(ctx, published, crclient.UnsafeDisableDeepCopy); err != nil {
				return first, err
			}
		}
		for j := range claim.Status.Allocation.Devices.Results {
			result := &claim.Status.Allocation.Devices.Results[j]
			for _, taint := range taints(published, result) {
				at, ends := end(taint, result.Tolerations)
				if ends && (first.IsZero() || at.Before(first)) {
					first = at
				}
			}
		}
	}
	return first, nil
}

// taints returns the NoExecute taints of an allocated device.
func taints(published *resourcev1.ResourceSliceList, result *resourcev1.DeviceRequestAllocationResult) []resourcev1.DeviceTaint {
	var found []resourcev1.DeviceTaint
	generation := int64(-1)
	for i := range published.Items {
		s := &published.Items[i].Spec
		// Only the newest generation of a pool counts.
		if s.Driver != result.Driver || s.Pool.Name != result.Pool || s.Pool.Generation < generation {
			continue
		}
		if s.Pool.Generation > generation {
			generation, found = s.Pool.Generation, nil
		}
		for j := range s.Devices {
			if s.Devices[j].Name != result.Device {
				continue
			}
			for _, taint := range s.Devices[j].Taints {
				if taint.Effect == resourcev1.DeviceTaintEffectNoExecute {
					found = append(found, taint)
				}
			}
		}
	}
	return found
}

// end returns when a pod with the tolerations must go because of the taint.
func end(taint resourcev1.DeviceTaint, tolerations []resourcev1.DeviceToleration) (at time.Time, ends bool) {
	since := time.Time{}.Add(time.Nanosecond)
	if taint.TimeAdded != nil {
		since = taint.TimeAdded.Time
	}
	seconds := int64(-1)
	for _, t := range tolerations {
		if !resourceclaim.ToleratesTaint(t, taint) {
			continue
		}
		if t.TolerationSeconds == nil {
			return at, false
		}
		seconds = max(seconds, *t.TolerationSeconds)
	}
	return since.Add(time.Duration(max(seconds, 0)) * time.Second), true
}
