package quota

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	requestsPrefix = "requests."
	// ofDeviceClass follows the name of a class, of which devices are counted.
	ofDeviceClass = ".deviceclass.resource.k8s.io/devices"
)

// extended reports whether the limit is one of an extended resource.
func extended(limit string) bool {
	name, ok := strings.CutPrefix(limit, requestsPrefix)
	native := strings.Contains(name, "kubernetes.io/") && !strings.HasPrefix(name, resourcev1.ResourceDeviceClassPrefix)
	return ok && strings.Contains(name, "/") && !native
}

// deviceUsage counts the devices that a claim may get, for each class. Of
// alternatives, any of which may come to be, each class counts its largest.
func deviceUsage(usage corev1.ResourceList, claim *resourcev1.ResourceClaim) {
	for i := range claim.Spec.Devices.Requests {
		request := &claim.Spec.Devices.Requests[i]
		if exactly := request.Exactly; exactly != nil {
			add(usage, corev1.ResourceName(exactly.DeviceClassName+ofDeviceClass), devices(exactly.AllocationMode, exactly.Count))
			continue
		}
		most := map[string]int64{}
		for _, sub := range request.FirstAvailable {
			most[sub.DeviceClassName] = max(most[sub.DeviceClassName], devices(sub.AllocationMode, sub.Count))
		}
		for class, n := range most {
			add(usage, corev1.ResourceName(class+ofDeviceClass), n)
		}
	}
}

func add(usage corev1.ResourceList, name corev1.ResourceName, n int64) {
	sum := usage[name]
	sum.Add(*resource.NewQuantity(n, resource.DecimalSI))
	usage[name] = sum
}

func devices(mode resourcev1.DeviceAllocationMode, count int64) int64 {
	if mode == resourcev1.DeviceAllocationModeAll {
		return resourcev1.AllocationResultsMaxSize
	}
	return count
}

// extendedUsage counts the devices of a claim also as the extended resources
// that their classes stand for, but for what the pod counts for already that
// the claim was made for.
func extendedUsage(memory client.Reader, usage corev1.ResourceList, claim *resourcev1.ResourceClaim, now time.Time) {
	more := corev1.ResourceList{}
	for name, n := range usage {
		class, ok := strings.CutSuffix(string(name), ofDeviceClass)
		var c resourcev1.DeviceClass
		if !ok || memory.Get(context.Background(), client.ObjectKey{Name: class}, &c, client.UnsafeDisableDeepCopy) != nil {
			continue
		}
		add(more, corev1.ResourceName(requestsPrefix+resourcev1.ResourceDeviceClassPrefix+class), n.Value())
		if c.Spec.ExtendedResourceName != nil {
			add(more, corev1.ResourceName(requestsPrefix+*c.Spec.ExtendedResourceName), n.Value())
		}
	}
	if pod := madeFor(memory, claim); pod != nil {
		counted := corev1.ResourceList{}
		podUsage(counted, pod, now)
		for name, n := range more {
			n.Sub(counted[name])
			more[name] = n
		}
	}
	maps.DeleteFunc(more, func(_ corev1.ResourceName, n resource.Quantity) bool { return n.Sign() <= 0 })
	maps.Copy(usage, more)
}

// madeFor returns the pod for whose extended resources the claim was made, or
// nil. There is one claim for a pod: the one that its status names, or until it
// does the first one.
func madeFor(memory client.Reader, claim *resourcev1.ResourceClaim) *corev1.Pod {
	owner := podOf(claim)
	if owner == nil {
		return nil
	}
	pod := &corev1.Pod{}
	key := client.ObjectKey{Namespace: claim.Namespace, Name: owner.Name}
	if memory.Get(context.Background(), key, pod, client.UnsafeDisableDeepCopy) != nil || pod.UID != owner.UID {
		return nil
	}
	if told := pod.Status.ExtendedResourceClaimStatus; told != nil {
		if told.ResourceClaimName != claim.Name {
			return nil
		}
		return pod
	}
	var all resourcev1.ResourceClaimList
	if memory.List(context.Background(), &all, client.InNamespace(claim.Namespace), client.UnsafeDisableDeepCopy) != nil {
		return nil
	}
	if slices.ContainsFunc(all.Items, func(c resourcev1.ResourceClaim) bool {
		other := podOf(&c)
		return other != nil && other.UID == pod.UID &&
			cmp.Or(c.CreationTimestamp.Compare(claim.CreationTimestamp.Time), cmp.Compare(c.Name, claim.Name)) < 0
	}) {
		return nil
	}
	return pod
}

// podOf returns the pod that a claim for extended resources says it is for.
func podOf(claim *resourcev1.ResourceClaim) *metav1.OwnerReference {
	owner := metav1.GetControllerOfNoCopy(claim)
	if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || owner == nil || owner.Kind != "Pod" || owner.APIVersion != "v1" {
		return nil
	}
	return owner
}
