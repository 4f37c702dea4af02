package scheduler_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
)

// slice publishes devices of a node; each is named for its size.
func slice(node string, devices ...string) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "gpu.example.com", NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: 1},
	}}
	for _, name := range devices {
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: name, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
			"size": {StringValue: &name},
		}})
	}
	return s
}

func devices(name, expression string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	request := &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}
	if expression != "" {
		request.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}}
	}
	c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: request}}
	return c
}

func claiming(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, name := range names {
			p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: name, ResourceClaimName: &name})
		}
	}
}

func allocation(t *testing.T, c *testcluster.Cluster, name string) *resourcev1.ResourceClaim {
	t.Helper()
	claim := &resourcev1.ResourceClaim{}
	if err := c.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, claim); err != nil {
		t.Fatal(err)
	}
	return claim
}

func TestDevices(t *testing.T) {
	c := start(t)
	for _, name := range []string{"n1", "n2", "n3"} {
		node(t, c, name)
	}
	create(t, c, pod("early", claiming("big")))
	until(t, c, "early", "refused", refused(`resourceclaim.resource.k8s.io "big" not found`))
	create(t, c, devices("big", `device.attributes["gpu.example.com"].size == "big"`))
	until(t, c, "early", "refused", refused("request r: device class gpu does not exist"))
	create(t, c, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "gpu.example.com"`}}},
	}})
	until(t, c, "early", "refused", refused("0/3 nodes are available: 3 cannot allocate all claims."))
	create(t, c, slice("n1", "small"))
	create(t, c, slice("n2", "big"))
	early := until(t, c, "early", "on n2", on("n2"))
	claim := allocation(t, c, "big")
	result := claim.Status.Allocation.Devices.Results
	if len(result) != 1 || result[0].Device != "big" || result[0].Pool != "n2" || result[0].Request != "r" {
		t.Errorf("allocated %+v", result)
	}
	if r := claim.Status.ReservedFor; len(r) != 1 || r[0].UID != early.UID || r[0].Resource != "pods" {
		t.Errorf("reserved for %+v", r)
	}
	if !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
		t.Error("an allocated claim may vanish")
	}

	// Pods that share a claim follow its device; the device is no one else's.
	create(t, c, pod("shared", claiming("big")))
	until(t, c, "shared", "on n2", on("n2"))
	create(t, c, devices("any", ""))
	create(t, c, pod("any", claiming("any")))
	until(t, c, "any", "on n1", on("n1"))
	create(t, c, pod("elsewhere", claiming("big"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "n3"} }))
	until(t, c, "elsewhere", "refused", refused("1 resourceclaim not available on the node"))

	// Many pods at once get one device each.
	names := []string{"d0", "d1", "d2", "d3"}
	for _, name := range names {
		create(t, c, devices(name, ""))
		create(t, c, pod(name, claiming(name)))
	}
	until(t, c, "d3", "refused", refused("cannot allocate all claims"))
	create(t, c, slice("n3", names...))
	taken := map[string]bool{}
	for _, name := range names {
		until(t, c, name, "on n3", on("n3"))
		taken[allocation(t, c, name).Status.Allocation.Devices.Results[0].Device] = true
	}
	if len(taken) != len(names) {
		t.Errorf("devices were given twice: %v", taken)
	}

	// A pod whose claim is made by a template waits until its status names it.
	template := "t"
	create(t, c, pod("templated", func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: &template}}
	}))
	waiting := until(t, c, "templated", "there", func(*corev1.Pod) bool { return true })
	own := devices("own", "")
	own.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(waiting, corev1.SchemeGroupVersion.WithKind("Pod"))}
	create(t, c, own)
	node(t, c, "n4")
	create(t, c, slice("n4", "x"))
	waiting.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: &own.Name}}
	if err := c.Client.Status().Update(t.Context(), waiting); err != nil {
		t.Fatal(err)
	}
	until(t, c, "templated", "on n4", on("n4"))
}
