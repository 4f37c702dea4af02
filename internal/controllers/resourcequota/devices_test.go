package resourcequota_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func deviceClaim(name string, requests ...resourcev1.DeviceRequest) *resourcev1.ResourceClaim {
	for i := range requests {
		requests[i].Name = "r" + string(rune('0'+i))
	}
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}},
	}
}

func exactly(class string, count int64) resourcev1.DeviceRequest {
	return resourcev1.DeviceRequest{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count}}
}

// madeFor marks a claim as the scheduler's, for the extended resources of pod.
func madeFor(pod *corev1.Pod, claim *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
	claim.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
	claim.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))}
	return claim
}

// TestDevices: devices count as those of their class and as the extended
// resources that the class stands for, whoever asks for them and how.
func TestDevices(t *testing.T) {
	e := start(t)
	account(e)
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("example.com/gpu")}}
	plain := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "plain"}}
	for _, c := range []*resourcev1.DeviceClass{class, plain} {
		if err := e.Client.Create(e.ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	const (
		ofClass, extended, implicit = "gpu.deviceclass.resource.k8s.io/devices", "requests.example.com/gpu", "requests.deviceclass.resource.kubernetes.io/gpu"
		ofPlain                     = "requests.deviceclass.resource.kubernetes.io/plain"
	)
	e.create(quota("q", list(ofClass, "100", extended, "8", implicit, "8", ofPlain, "40")))
	want := func(what string, devices, asExtended, asImplicit, others string) {
		t.Helper()
		t.Log(what)
		e.wantUsed("q", list(ofClass, devices, extended, asExtended, implicit, asImplicit, ofPlain, others))
	}
	want("nothing", "0", "0", "0", "0")
	p := pod("p", list("example.com/gpu", "2"))
	e.create(p)
	want("a pod", "0", "2", "0", "0")
	e.create(madeFor(p, deviceClaim("made", exactly("gpu", 2))))
	want("and its claim", "2", "2", "2", "0")
	second := madeFor(p, deviceClaim("second", exactly("gpu", 1)))
	e.create(second)
	want("and another, which it has no need of", "3", "3", "3", "0")
	e.remove(second)
	want("which is gone", "2", "2", "2", "0")
	implied := pod("implied", list("deviceclass.resource.kubernetes.io/gpu", "1"))
	e.create(implied)
	e.create(madeFor(implied, deviceClaim("implied", exactly("gpu", 1))))
	want("a pod that asks for the class", "3", "3", "3", "0")
	e.create(deviceClaim("own", exactly("gpu", 1), exactly("plain", 1), resourcev1.DeviceRequest{FirstAvailable: []resourcev1.DeviceSubRequest{
		{Name: "a", DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2},
		{Name: "b", DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
		{Name: "c", DeviceClassName: "plain", AllocationMode: resourcev1.DeviceAllocationModeAll},
	}}, exactly("missing", 1)))
	want("somebody's own claim", "6", "6", "6", "33")
	err := e.Client.Create(e.ctx, deviceClaim("large", exactly("gpu", 3)))
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: q, requested: "+implicit+"=3,"+extended+"=3, used: "+implicit+"=6,"+extended+"=6, limited: ") {
		t.Errorf("a claim too large: %v", err)
	}
	err = e.Client.Create(e.ctx, func() client.Object {
		p := pod("large", list("example.com/gpu", "3"))
		p.Namespace = namespace
		return p
	}())
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: q, requested: "+extended+"=3") {
		t.Errorf("a pod too large: %v", err)
	}

	// The class comes to stand for something else.
	class.Spec.ExtendedResourceName = nil
	if err := e.Client.Update(e.ctx, class); err != nil {
		t.Fatal(err)
	}
	want("without a name", "6", "2", "6", "33")
	// Once the pod names a claim, another one that says it is for the pod counts
	// in full.
	p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "made", RequestMappings: []corev1.ContainerExtendedResourceRequest{
		{ContainerName: "c", ResourceName: "example.com/gpu", RequestName: "r0"},
	}}
	if err := e.Client.Status().Update(e.ctx, p); err != nil {
		t.Fatal(err)
	}
	class.Spec.ExtendedResourceName = ptr.To("example.com/gpu")
	if err := e.Client.Update(e.ctx, class); err != nil {
		t.Fatal(err)
	}
	want("with a name", "6", "6", "6", "33")
	e.create(madeFor(p, deviceClaim("false", exactly("gpu", 1))))
	want("a false claim", "7", "7", "7", "33")
	e.remove(p)
	want("the pod is gone, and its claim is not", "7", "7", "7", "33")
}
