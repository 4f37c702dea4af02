package scheduler_test

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
)

func gpuClass(change ...func(*resourcev1.DeviceClass)) *resourcev1.DeviceClass {
	c := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "gpu.example.com"`}}},
	}}
	for _, f := range change {
		f(c)
	}
	return c
}

func status(t *testing.T, c *testcluster.Cluster, o client.Object) {
	t.Helper()
	if err := c.Client.Status().Update(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func nodeSelector(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name} }
}

// TestDevicesElsewhereAreGivenBack: a claim that nobody uses follows its pod.
func TestDevicesElsewhereAreGivenBack(t *testing.T) {
	c := start(t)
	create(t, c, gpuClass())
	for _, name := range []string{"n1", "n2"} {
		node(t, c, name)
		create(t, c, slice(name, "device-of-"+name))
	}
	create(t, c, devices("d", ""))
	create(t, c, pod("first", claiming("d"), nodeSelector("n1")))
	first := bound(t, c, "first")
	if first != "n1" {
		t.Fatalf("bound to %s", first)
	}
	// While a pod uses it the claim stays.
	create(t, c, pod("second", claiming("d"), nodeSelector("n2")))
	unschedulable(t, c, "second", "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 resourceclaim not available on the node."+
		" still not schedulable, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.")
	finish(t, c, "first")
	claim := allocation(t, c, "d")
	claim.Status.ReservedFor = nil
	status(t, c, claim)
	until(t, c, "second", "on n2", on("n2"))
	if r := allocation(t, c, "d").Status.Allocation.Devices.Results; r[0].Device != "device-of-n2" {
		t.Errorf("allocated %+v", r)
	}
}

// TestDevicesBecomeReady: a pod is not bound before its devices are ready, and
// gets others if they never are.
func TestDevicesBecomeReady(t *testing.T) {
	c := start(t)
	create(t, c, gpuClass())
	node(t, c, "n1")
	s := slice("n1", "x", "y")
	for i := range s.Spec.Devices {
		s.Spec.Devices[i].BindingConditions, s.Spec.Devices[i].BindingFailureConditions = []string{"attached"}, []string{"broken"}
	}
	create(t, c, s)
	create(t, c, devices("d", ""))
	create(t, c, pod("p", claiming("d")))
	event(t, c, "p", "BindingConditionsPending", "waiting for binding conditions for device on node n1")
	until(t, c, "p", "not bound", on(""))
	// say tells what the driver thinks of the claim's device.
	say := func(condition string) *resourcev1.ResourceClaim {
		t.Helper()
		var claim *resourcev1.ResourceClaim
		c.Wait(t, "an allocation", &resourcev1.ResourceClaimList{}, func() bool {
			claim = allocation(t, c, "d")
			return claim.Status.Allocation != nil && len(claim.Status.Devices) == 0
		})
		r := claim.Status.Allocation.Devices.Results[0]
		claim.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: r.Driver, Pool: r.Pool, Device: r.Device, Conditions: []metav1.Condition{{
			Type: condition, Status: metav1.ConditionTrue, Reason: "Driver", Message: "says so", LastTransitionTime: metav1.Now(),
		}}}}
		status(t, c, claim)
		return claim
	}
	say("broken")
	event(t, c, "p", "FailedScheduling", `running PreBind plugin "DynamicResources": claim d binding failed: reason=Driver, message="says so"`)
	say("attached")
	bound(t, c, "p")
}

// TestDevicesAsExtendedResources: where no device plugin has a resource, a
// device class can stand for it.
func TestDevicesAsExtendedResources(t *testing.T) {
	c := start(t)
	gpus := func(n string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"example.com/gpu": resource.MustParse(n)}
		}
	}
	node(t, c, "n1")
	create(t, c, slice("n1", "x", "y", "z"))
	create(t, c, pod("p", gpus("2")))
	unschedulable(t, c, "p", "0/1 nodes are available: 1 Insufficient example.com/gpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	create(t, c, gpuClass(func(d *resourcev1.DeviceClass) { d.Spec.ExtendedResourceName = ptr.To("example.com/gpu") }))
	p := until(t, c, "p", "on n1", on("n1"))
	told := p.Status.ExtendedResourceClaimStatus
	if told == nil || !slices.Equal(told.RequestMappings, []corev1.ContainerExtendedResourceRequest{{ContainerName: "c", ResourceName: "example.com/gpu", RequestName: "container-0-request-0"}}) {
		t.Fatalf("the pod is told %+v", told)
	}
	claim := allocation(t, c, told.ResourceClaimName)
	if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || !metav1.IsControlledBy(claim, p) ||
		len(claim.Status.Allocation.Devices.Results) != 2 || len(claim.Status.ReservedFor) != 1 || !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
		t.Errorf("the claim: %+v", claim)
	}
	// One device is left.
	create(t, c, pod("q", gpus("2")))
	unschedulable(t, c, "q", "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	create(t, c, pod("r", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"deviceclass.resource.kubernetes.io/gpu": resource.MustParse("1")}
	}))
	bound(t, c, "r")
	// A device plugin needs no claim.
	node(t, c, "n2", func(n *corev1.Node) { n.Status.Allocatable["example.com/gpu"] = resource.MustParse("2") })
	if q := until(t, c, "q", "on n2", on("n2")); q.Status.ExtendedResourceClaimStatus != nil {
		t.Errorf("a claim was made: %+v", q.Status.ExtendedResourceClaimStatus)
	}
}

// TestDevicesCountInScores: devices that stand for an extended resource count
// where a strategy names it, and those of others' claims are used, too.
func TestDevicesCountInScores(t *testing.T) {
	c := testcluster.Start(t)
	configure(t, c, head+`
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: MostAllocated, resources: [{name: example.com/gpu, weight: 1}]}}
- schedulerName: spreading
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: LeastAllocated, resources: [{name: deviceclass.resource.kubernetes.io/gpu, weight: 1}]}}
- schedulerName: balancing
  pluginConfig:
  - name: NodeResourcesBalancedAllocation
    args: {resources: [{name: cpu, weight: 1}, {name: example.com/gpu, weight: 1}]}
`)
	create(t, c, gpuClass(func(d *resourcev1.DeviceClass) { d.Spec.ExtendedResourceName = ptr.To("example.com/gpu") }))
	for _, name := range []string{"n1", "n2"} {
		node(t, c, name)
		s := slice(name, "a", "b", "c", "d", "e", "f", "g", "h")
		create(t, c, s)
	}
	// Devices of others do not count.
	other := slice("n2", "x")
	other.Name, other.Spec.Driver = "other", "other.example.com"
	create(t, c, other)
	for _, name := range []string{"taken", "taken-too"} {
		create(t, c, devices(name, ""))
		create(t, c, pod(name, claiming(name), nodeSelector("n1")))
		bound(t, c, name)
	}
	for i, test := range []struct {
		scheduler string
		resource  corev1.ResourceName
		cpu, want string
	}{
		{"packing", "example.com/gpu", "0", "n1"},
		{"packing", "example.com/gpu", "0", "n1"},
		{"packing", "example.com/gpu", "0", "n1"},
		{"spreading", "deviceclass.resource.kubernetes.io/gpu", "0", "n2"},
		{"spreading", "deviceclass.resource.kubernetes.io/gpu", "0", "n2"},
		{"spreading", "deviceclass.resource.kubernetes.io/gpu", "0", "n2"},
		// Five of eight devices are taken on n1, and three on n2: the CPU goes well
		// with the former.
		{"balancing", "example.com/gpu", "3", "n1"},
	} {
		name := fmt.Sprint("p", i)
		create(t, c, pod(name, func(p *corev1.Pod) {
			p.Spec.SchedulerName = test.scheduler
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{test.resource: resource.MustParse("1")}
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(test.cpu)}
		}))
		if got := bound(t, c, name); got != test.want {
			t.Errorf("%s, by %s: on %s, want %s", name, test.scheduler, got, test.want)
		}
	}
}

// TestKindsOfRequests: what v1.36 knows of devices without being asked to.
func TestKindsOfRequests(t *testing.T) {
	c := start(t)
	create(t, c, gpuClass())
	node(t, c, "n1")
	s := slice("n1", "plain", "tainted", "part-1", "part-2", "large")
	s.Spec.Devices[1].Taints = []resourcev1.DeviceTaint{{Key: "example.com/ill", Effect: resourcev1.DeviceTaintEffectNoSchedule}}
	memory := func(q string) []resourcev1.DeviceCounterConsumption {
		return []resourcev1.DeviceCounterConsumption{{CounterSet: "card", Counters: map[string]resourcev1.Counter{"memory": {Value: resource.MustParse(q)}}}}
	}
	s.Spec.Devices[2].ConsumesCounters, s.Spec.Devices[3].ConsumesCounters, s.Spec.Devices[4].ConsumesCounters = memory("4Gi"), memory("4Gi"), memory("8Gi")
	s.Spec.Pool.ResourceSliceCount = 2
	counters := slice("n1")
	counters.Name, counters.Spec.Pool.ResourceSliceCount = "counters", 2
	counters.Spec.SharedCounters = []resourcev1.CounterSet{{Name: "card", Counters: map[string]resourcev1.Counter{"memory": {Value: resource.MustParse("8Gi")}}}}
	create(t, c, s)
	create(t, c, counters)
	size := func(is string) []resourcev1.DeviceSelector {
		return []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.attributes["gpu.example.com"].size == "` + is + `"`}}}
	}
	for _, test := range []struct {
		name   string
		change func(*resourcev1.DeviceRequest)
		want   string
	}{
		{"tainted", func(r *resourcev1.DeviceRequest) { r.Exactly.Selectors = size("tainted") }, ""},
		{"tolerant", func(r *resourcev1.DeviceRequest) {
			r.Exactly.Selectors = size("tainted")
			r.Exactly.Tolerations = []resourcev1.DeviceToleration{{Key: "example.com/ill", Operator: resourcev1.DeviceTolerationOpExists}}
		}, "tainted"},
		{"part", func(r *resourcev1.DeviceRequest) { r.Exactly.Selectors = size("part-1") }, "part-1"},
		{"whole", func(r *resourcev1.DeviceRequest) { r.Exactly.Selectors = size("large") }, ""},
		{"other", func(r *resourcev1.DeviceRequest) { r.Exactly.Selectors = size("part-2") }, "part-2"},
		{"choosy", func(r *resourcev1.DeviceRequest) {
			r.Exactly = nil
			r.FirstAvailable = []resourcev1.DeviceSubRequest{
				{Name: "best", DeviceClassName: "gpu", Selectors: size("large")}, {Name: "good", DeviceClassName: "gpu", Selectors: size("plain")},
			}
		}, "plain"},
	} {
		claim := devices(test.name, "")
		test.change(&claim.Spec.Devices.Requests[0])
		create(t, c, claim)
		create(t, c, pod(test.name, claiming(test.name)))
		if test.want == "" {
			until(t, c, test.name, "refused", refused("1 cannot allocate all claims."))
			continue
		}
		bound(t, c, test.name)
		if got := allocation(t, c, test.name).Status.Allocation.Devices.Results[0].Device; got != test.want {
			t.Errorf("%s got %s, want %s", test.name, got, test.want)
		}
	}

	// Administrators look at devices that others use.
	namespace := &corev1.Namespace{}
	if err := c.Client.Get(t.Context(), client.ObjectKey{Name: "default"}, namespace); err != nil {
		t.Fatal(err)
	}
	namespace.Labels["resource.kubernetes.io/admin-access"] = "true"
	if err := c.Client.Update(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	claim := devices("admin", "")
	claim.Spec.Devices.Requests[0].Exactly.AdminAccess = ptr.To(true)
	claim.Spec.Devices.Requests[0].Exactly.Selectors = size("plain")
	create(t, c, claim)
	create(t, c, pod("admin", claiming("admin")))
	bound(t, c, "admin")
}

func TestWordsBeforeDevicesAreLookedAt(t *testing.T) {
	c := start(t)
	node(t, c, "n1")
	create(t, c, pod("p", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "missing"}}}}
	}))
	unschedulable(t, c, "p", `0/1 nodes are available: persistentvolumeclaim "missing" not found. not found`)
}

// TestWaitingHasAnEnd: volumes that nobody makes, and devices that do not become
// ready, are waited for as long as the configuration says.
func TestWaitingHasAnEnd(t *testing.T) {
	c := testcluster.Start(t)
	configure(t, c, head+`
profiles:
- pluginConfig:
  - name: VolumeBinding
    args: {bindTimeoutSeconds: 1}
  - name: DynamicResources
    args: {bindingTimeout: 2s}
`)
	create(t, c, gpuClass())
	create(t, c, class("nobody", "csi.example.com"))
	node(t, c, "n1")
	s := slice("n1", "x")
	s.Spec.Devices[0].BindingConditions, s.Spec.Devices[0].BindingFailureConditions = []string{"attached"}, []string{"broken"}
	create(t, c, s)
	create(t, c, devices("d", ""))
	create(t, c, pod("device", claiming("d")))
	event(t, c, "device", "FailedScheduling", `running PreBind plugin "DynamicResources": device binding timeout`)
	create(t, c, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "v"}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: ptr.To("nobody"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}},
	}})
	create(t, c, pod("volume", using("v")))
	event(t, c, "volume", "FailedScheduling", `running PreBind plugin "VolumeBinding": binding volumes: timed out waiting for the condition`)
}
