package class_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
	"skiff/internal/scheduler/cache"
	"skiff/internal/scheduler/class"
	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/dynamicresources"
)

const someDeviceNodes, someDeviceClaims = 3, 7

// workshop is a cluster of which the API knows nodes, devices and claims.
type workshop struct {
	*testing.T
	r       *rand.Rand
	c       client.Client
	cache   *cache.Cache
	plugin  *dynamicresources.Plugin
	profile *framework.Profile
	// pending was given devices that the API does not show yet.
	pending *framework.PodInfo
	node    string
}

func newWorkshop(t *testing.T, seed uint64) *workshop {
	t.Helper()
	c := testcluster.Start(t)
	w := &workshop{
		T: t, r: rand.New(rand.NewPCG(seed, 3)), c: c.Client, cache: cache.New(),
		plugin: dynamicresources.New(c.Set(identity.Component("system:kube-scheduler")), clock.RealClock{}).With(0, time.Minute),
	}
	w.profile = &framework.Profile{Filter: []framework.FilterPlugin{w.plugin}}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "devices", Labels: map[string]string{"resource.kubernetes.io/admin-access": "true"}}}
	w.must(w.c.Create(t.Context(), namespace))
	for name, expression := range classSelectors {
		class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if expression != "" {
			class.Spec.Selectors = selectors(expression)
		}
		if name != "gone" {
			w.must(w.c.Create(t.Context(), class))
		}
	}
	for i := range someDeviceNodes {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i), Labels: map[string]string{"disk": pick(w.r, "ssd", "hdd")}}}
		w.must(w.c.Create(t.Context(), n))
		w.cache.SetNode(n)
		w.makeGPUs(n.Name)
	}
	w.makeNets()
	return w
}

func selectors(expression string) []resourcev1.DeviceSelector {
	return []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}}
}

func (w *workshop) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *workshop) find(o client.Object) bool {
	w.Helper()
	err := w.c.Get(w.Context(), client.ObjectKeyFromObject(o), o)
	w.must(client.IgnoreNotFound(err))
	return err == nil
}

// makeGPUs publishes other devices of the node than before. Some share memory.
func (w *workshop) makeGPUs(node string) {
	w.Helper()
	for _, name := range []string{node, node + "-memory"} {
		w.must(client.IgnoreNotFound(w.c.Delete(w.Context(), &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}})))
	}
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: resourcev1.ResourceSliceSpec{
		Driver: gpuDriver, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: 2},
	}}
	for i := range 2 + w.r.IntN(3) {
		d := resourcev1.Device{
			Name:       fmt.Sprint("d", i),
			Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"size": {StringValue: ptr.To(pick(w.r, "big", "small"))}},
			Capacity:   map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: *resource.NewQuantity(int64(1+w.r.IntN(3))<<30, resource.BinarySI)}},
		}
		if w.r.IntN(4) > 0 {
			d.Attributes["numa"] = resourcev1.DeviceAttribute{StringValue: ptr.To(pick(w.r, "0", "1", "2"))}
		}
		if w.r.IntN(5) == 0 {
			d.Taints = []resourcev1.DeviceTaint{{Key: pick(w.r, "t", "u"), Value: pick(w.r, "x", "y"), Effect: pick(w.r,
				resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNone)}}
		}
		if w.r.IntN(2) == 0 {
			d.ConsumesCounters = []resourcev1.DeviceCounterConsumption{{CounterSet: "card", Counters: map[string]resourcev1.Counter{"memory": {Value: d.Capacity["memory"].Value}}}}
		}
		s.Spec.Devices = append(s.Spec.Devices, d)
	}
	w.must(w.c.Create(w.Context(), s))
	w.must(w.c.Create(w.Context(), &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node + "-memory"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: gpuDriver, NodeName: &node, Pool: s.Spec.Pool,
		SharedCounters: []resourcev1.CounterSet{{Name: "card", Counters: map[string]resourcev1.Counter{"memory": {Value: resource.MustParse("4Gi")}}}},
	}}))
}

// makeNets publishes devices that several nodes can use.
func (w *workshop) makeNets() {
	w.Helper()
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "net"}}
	w.must(client.IgnoreNotFound(w.c.Delete(w.Context(), s)))
	s.Spec = resourcev1.ResourceSliceSpec{Driver: netDriver, Pool: resourcev1.ResourcePool{Name: "net", ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "d0"}, {Name: "d1"}}}
	if w.r.IntN(2) == 0 {
		s.Spec.AllNodes = ptr.To(true)
	} else {
		s.Spec.NodeSelector = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}},
		}}}}
	}
	w.must(w.c.Create(w.Context(), s))
}

// happen changes something.
func (w *workshop) happen() {
	w.Helper()
	switch w.r.IntN(8) {
	case 0:
		w.makeGPUs(fmt.Sprint("n", w.r.IntN(someDeviceNodes)))
	case 1:
		w.makeNets()
	default:
		w.changeClaim()
	}
}

func (w *workshop) changeClaim() {
	w.Helper()
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "devices", Name: fmt.Sprint("c", w.r.IntN(someDeviceClaims))}}
	if !w.find(claim) {
		w.randomRequests(claim)
		w.must(w.c.Create(w.Context(), claim))
		return
	}
	if w.pending != nil && slices.Contains(claimed(w.pending.Pod), claim.Name) {
		return
	}
	switch w.r.IntN(3) {
	case 0:
		// Its pods are gone, and the devices are given back.
		claim.Status = resourcev1.ResourceClaimStatus{}
		w.must(w.c.Status().Update(w.Context(), claim))
	case 1:
		claim.Status = resourcev1.ResourceClaimStatus{}
		w.must(w.c.Status().Update(w.Context(), claim))
		if w.r.IntN(4) > 0 {
			claim.Finalizers = nil
			w.must(w.c.Update(w.Context(), claim))
		}
		w.must(client.IgnoreNotFound(w.c.Delete(w.Context(), claim)))
	}
}

func (w *workshop) randomRequests(claim *resourcev1.ResourceClaim) {
	all, several := false, false
	for i := range 1 + w.r.IntN(2) {
		r := resourcev1.DeviceRequest{Name: fmt.Sprint("r", i)}
		if w.r.IntN(4) == 0 {
			for j := range 2 {
				e := w.randomRequest()
				r.FirstAvailable = append(r.FirstAvailable, resourcev1.DeviceSubRequest{
					Name: fmt.Sprint("s", j), DeviceClassName: e.DeviceClassName, Selectors: e.Selectors, AllocationMode: e.AllocationMode, Count: e.Count, Tolerations: e.Tolerations,
				})
				all, several = all || e.AllocationMode == resourcev1.DeviceAllocationModeAll, several || e.Count > 1
			}
		} else {
			r.Exactly = w.randomRequest()
			if w.r.IntN(8) == 0 {
				r.Exactly.AdminAccess = ptr.To(true)
			}
			all, several = all || r.Exactly.AllocationMode == resourcev1.DeviceAllocationModeAll, several || r.Exactly.Count > 1
		}
		claim.Spec.Devices.Requests = append(claim.Spec.Devices.Requests, r)
	}
	// A constraint about all devices is an error of the claim where it does not
	// hold, and devices of one request are not told apart as those of several are.
	if all || w.r.IntN(2) == 0 {
		return
	}
	c := resourcev1.DeviceConstraint{MatchAttribute: ptr.To(resourcev1.FullyQualifiedName(gpuDriver + "/numa"))}
	if !several && w.r.IntN(2) == 0 {
		c.MatchAttribute, c.DistinctAttribute = nil, c.MatchAttribute
	}
	if w.r.IntN(3) == 0 {
		c.Requests = []string{"r0"}
	}
	claim.Spec.Devices.Constraints = []resourcev1.DeviceConstraint{c}
}

func (w *workshop) randomRequest() *resourcev1.ExactDeviceRequest {
	e := &resourcev1.ExactDeviceRequest{
		DeviceClassName: pick(w.r, "any", "any", "gpu", "gpu", "gpu", "gpu"), AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: int64(1 + w.r.IntN(2)),
	}
	if w.r.IntN(40) == 0 {
		e.DeviceClassName = "gone"
	}
	if w.r.IntN(3) == 0 {
		e.Selectors = selectors(pick(w.r, isGPU, isBig, hasMemory))
	}
	if w.r.IntN(6) == 0 {
		e.AllocationMode, e.Count = resourcev1.DeviceAllocationModeAll, 0
	}
	if w.r.IntN(3) == 0 {
		e.Tolerations = []resourcev1.DeviceToleration{{Operator: resourcev1.DeviceTolerationOpExists}}
		if w.r.IntN(2) == 0 {
			e.Tolerations = []resourcev1.DeviceToleration{{Key: "t", Operator: resourcev1.DeviceTolerationOpEqual, Value: "x", Effect: pick(w.r, "", resourcev1.DeviceTaintEffectNoSchedule)}}
		}
	}
	return e
}

func claimed(pod *corev1.Pod) (names []string) {
	for _, c := range pod.Spec.ResourceClaims {
		names = append(names, *c.ResourceClaimName)
	}
	return names
}

// show lets the API see what was decided.
func (w *workshop) show() {
	w.Helper()
	if w.pending == nil {
		return
	}
	if why := w.plugin.PreBind(w.Context(), w.pending.Pod, w.node); why != nil {
		w.Fatalf("the decision about %v could not be written: %v", claimed(w.pending.Pod), why)
	}
	w.pending = nil
}

func (w *workshop) look() *naiveDevices {
	w.Helper()
	var claims resourcev1.ResourceClaimList
	var slices resourcev1.ResourceSliceList
	w.must(w.c.List(w.Context(), &claims))
	w.must(w.c.List(w.Context(), &slices))
	return &naiveDevices{claims.Items, slices.Items}
}

// check looks whether the devices of the claims are theirs alone and what they
// asked for.
func (w *workshop) check(v *naiveDevices) {
	w.Helper()
	users := map[string]string{}
	for _, c := range v.claims {
		if c.Status.Allocation == nil {
			continue
		}
		for _, r := range c.Status.Allocation.Devices.Results {
			id := r.Driver + "/" + r.Pool + "/" + r.Device
			if ptr.Deref(r.AdminAccess, false) {
				continue
			}
			if users[id] != "" {
				w.Errorf("%s and %s have the same device %s", c.Name, users[id], id)
			}
			users[id] = c.Name
		}
	}
}

// TestDevicesAsNaively compares with the naive implementation in a cluster in
// which devices and claims come, go and change. NAIVE_STEPS sets how often.
func TestDevicesAsNaively(t *testing.T) {
	steps := 1000
	if n, err := strconv.Atoi(os.Getenv("NAIVE_STEPS")); err == nil {
		steps = n
	}
	w := newWorkshop(t, 1)
	for range 20 {
		w.happen()
	}
	fitting, refused, allocated := 0, 0, 0
	for step := range steps {
		w.happen()
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "devices", Name: fmt.Sprint("p", step), UID: types.UID(fmt.Sprint("p", step))}}
		for i := range 1 + w.r.IntN(2) {
			name := fmt.Sprint("c", w.r.IntN(someDeviceClaims))
			if !slices.Contains(claimed(pod), name) {
				pod.Spec.ResourceClaims = append(pod.Spec.ResourceClaims, corev1.PodResourceClaim{Name: fmt.Sprint(i), ResourceClaimName: &name})
			}
		}
		info := framework.NewPodInfo(pod)
		k := class.New(w.profile, w.cache, info, seed)
		k.Best()
		w.show()
		naive := w.look()
		w.check(naive)
		var good []string
		for _, n := range w.cache.Rows() {
			why := k.Rejected()
			if why == nil {
				why = k.Why(n)
			}
			fits := naive.fits(pod, n.Node)
			if (why == nil) != fits {
				for _, name := range claimed(pod) {
					t.Logf("%+v", named(naive.claims, name))
				}
				t.Fatalf("step %d, node %s: %v, but the naive implementation says %t, for %v", step, n.Node.Name, why, fits, claimed(pod))
			}
			if !fits {
				refused++
				continue
			}
			fitting++
			good = append(good, n.Node.Name)
		}
		if len(good) == 0 {
			continue
		}
		w.node = pick(w.r, good...)
		if why := w.plugin.Reserve(info, w.node); why != nil {
			t.Fatalf("step %d: %v", step, why)
		}
		if w.r.IntN(4) == 0 {
			w.plugin.Unreserve(info, w.node)
			continue
		}
		w.pending = info
		allocated++
	}
	t.Logf("fits %d times, does not %d times, %d times devices were given", fitting, refused, allocated)
	if steps >= 1000 && min(fitting, refused, allocated) < steps/8 {
		t.Errorf("in %d steps pods fit %d times and did not %d times, %d got devices: that tests little", steps, fitting, refused, allocated)
	}
}
