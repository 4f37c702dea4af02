package class_test

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// naiveDevices tries every way to give claims devices, from all the objects
// that there are. It shares no code with the rules, nor with the allocator that
// these use.
type naiveDevices struct {
	claims []resourcev1.ResourceClaim
	slices []resourcev1.ResourceSlice
}

// given is a device for a request; sub is the alternative that was chosen.
type given struct {
	claim        *resourcev1.ResourceClaim
	request, sub string
	slice        *resourcev1.ResourceSlice
	device       *resourcev1.Device
	admin        bool
}

func (g given) is(s *resourcev1.ResourceSlice, d *resourcev1.Device) bool {
	return g.slice.Spec.Driver == s.Spec.Driver && g.slice.Spec.Pool.Name == s.Spec.Pool.Name && g.device.Name == d.Name
}

// wanted is a request without alternatives, or one of the alternatives.
type wanted struct {
	sub, class  string
	selectors   []resourcev1.DeviceSelector
	mode        resourcev1.DeviceAllocationMode
	count       int64
	admin       bool
	tolerations []resourcev1.DeviceToleration
}

func alternatives(r *resourcev1.DeviceRequest) (all []wanted) {
	if e := r.Exactly; e != nil {
		return []wanted{{"", e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, ptr.Deref(e.AdminAccess, false), e.Tolerations}}
	}
	for _, s := range r.FirstAvailable {
		all = append(all, wanted{s.Name, s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, false, s.Tolerations})
	}
	return all
}

// The expressions that the tests use, and what they mean.
var (
	classSelectors = map[string]string{"any": "", "gpu": isGPU, "gone": ""}
	selectorsMean  = map[string]func(driver string, d *resourcev1.Device) bool{
		isGPU: func(driver string, _ *resourcev1.Device) bool { return driver == gpuDriver },
		isBig: func(driver string, d *resourcev1.Device) bool {
			return driver == gpuDriver && *d.Attributes["size"].StringValue == "big"
		},
		hasMemory: func(driver string, d *resourcev1.Device) bool {
			memory := d.Capacity["memory"].Value
			return driver == gpuDriver && memory.Cmp(resource.MustParse("2Gi")) >= 0
		},
	}
)

const (
	gpuDriver, netDriver = "gpu.example.com", "net.example.com"

	isGPU     = `device.driver == "gpu.example.com"`
	isBig     = isGPU + ` && device.attributes["gpu.example.com"].size == "big"`
	hasMemory = isGPU + ` && device.capacity["gpu.example.com"].memory.compareTo(quantity("2Gi")) >= 0`
)

func (w *wanted) matches(s *resourcev1.ResourceSlice, d *resourcev1.Device) bool {
	expressions := []string{classSelectors[w.class]}
	for _, selector := range w.selectors {
		expressions = append(expressions, selector.CEL.Expression)
	}
	return !slices.ContainsFunc(expressions, func(e string) bool { return e != "" && !selectorsMean[e](s.Spec.Driver, d) })
}

func (w *wanted) tolerates(d *resourcev1.Device) bool {
	return !slices.ContainsFunc(d.Taints, func(t resourcev1.DeviceTaint) bool {
		return t.Effect != resourcev1.DeviceTaintEffectNone && !slices.ContainsFunc(w.tolerations, func(o resourcev1.DeviceToleration) bool {
			return (o.Key == "" || o.Key == t.Key) && (o.Operator == resourcev1.DeviceTolerationOpExists || o.Value == t.Value) && (o.Effect == "" || o.Effect == t.Effect)
		})
	})
}

// fits reports whether the pod's claims have devices that can be used on the
// node, or can get some. The naive implementation knows no other claims than
// those by name.
func (v *naiveDevices) fits(pod *corev1.Pod, n *corev1.Node) bool {
	var open []*resourcev1.ResourceClaim
	for _, c := range pod.Spec.ResourceClaims {
		claim := named(v.claims, *c.ResourceClaimName)
		if claim == nil || claim.DeletionTimestamp != nil {
			return false
		}
		if a := claim.Status.Allocation; a == nil {
			open = append(open, claim)
		} else if a.NodeSelector != nil && !slices.ContainsFunc(a.NodeSelector.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
			for _, f := range t.MatchFields {
				if f.Key != "metadata.name" || !slices.Contains(f.Values, n.Name) {
					return false
				}
			}
			return selects(t, n)
		}) {
			return false
		}
	}
	for _, claim := range open {
		for i := range claim.Spec.Devices.Requests {
			for _, w := range alternatives(&claim.Spec.Devices.Requests[i]) {
				if _, exists := classSelectors[w.class]; !exists || w.class == "gone" {
					return false
				}
			}
		}
	}
	return v.solve(n, open, 0, nil)
}

// solve reports whether what is left of the claims, from the request on, can be
// given devices beside those that were given.
func (v *naiveDevices) solve(n *corev1.Node, claims []*resourcev1.ResourceClaim, request int, so []given) bool {
	if len(claims) == 0 {
		return true
	}
	claim := claims[0]
	if request == len(claim.Spec.Devices.Requests) {
		return v.solve(n, claims[1:], 0, so)
	}
	r := &claim.Spec.Devices.Requests[request]
	for _, w := range alternatives(r) {
		var all []given
		v.each(n, func(s *resourcev1.ResourceSlice, d *resourcev1.Device) {
			if w.matches(s, d) {
				all = append(all, given{claim, r.Name, w.sub, s, d, w.admin})
			}
		})
		count := int(w.count)
		if w.mode == resourcev1.DeviceAllocationModeAll {
			if count = len(all); count == 0 {
				continue
			}
		}
		if v.choose(&w, all, count, so, func(so []given) bool { return v.solve(n, claims, request+1, so) }) {
			return true
		}
	}
	return false
}

// choose tries all ways to add so many of the devices.
func (v *naiveDevices) choose(w *wanted, all []given, count int, so []given, then func([]given) bool) bool {
	if count == 0 {
		return then(so)
	}
	for i := range all {
		if next := append(slices.Clip(so), all[i]); w.tolerates(all[i].device) && v.valid(next) && v.choose(w, all[i+1:], count-1, next, then) {
			return true
		}
	}
	return false
}

// each calls f with the devices that can be used on the node.
func (v *naiveDevices) each(n *corev1.Node, f func(*resourcev1.ResourceSlice, *resourcev1.Device)) {
	for i := range v.slices {
		s := &v.slices[i]
		here := ptr.Deref(s.Spec.AllNodes, false) || ptr.Deref(s.Spec.NodeName, "") == n.Name
		if s.Spec.NodeSelector != nil {
			here = selects(s.Spec.NodeSelector.NodeSelectorTerms[0], n)
		}
		for j := range s.Spec.Devices {
			if here {
				f(s, &s.Spec.Devices[j])
			}
		}
	}
}

// valid reports whether the last device may be given besides the others.
func (v *naiveDevices) valid(so []given) bool {
	last := so[len(so)-1]
	for _, g := range so[:len(so)-1] {
		// Administrators see what others use, but once for each claim.
		if g.is(last.slice, last.device) && (!last.admin || g.claim == last.claim) {
			return false
		}
	}
	return (last.admin || !v.taken(last.slice, last.device)) && v.enough(so) && v.constrained(so)
}

// taken reports whether a claim has the device.
func (v *naiveDevices) taken(s *resourcev1.ResourceSlice, d *resourcev1.Device) bool {
	return slices.ContainsFunc(v.claims, func(c resourcev1.ResourceClaim) bool {
		return c.Status.Allocation != nil && slices.ContainsFunc(c.Status.Allocation.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool {
			return !ptr.Deref(r.AdminAccess, false) && r.Driver == s.Spec.Driver && r.Pool == s.Spec.Pool.Name && r.Device == d.Name
		})
	})
}

// enough reports whether what the last device's pool shares is enough for all.
func (v *naiveDevices) enough(so []given) bool {
	last := so[len(so)-1]
	if len(last.device.ConsumesCounters) == 0 {
		return true
	}
	left := map[string]int64{}
	use := func(d *resourcev1.Device) {
		for _, c := range d.ConsumesCounters {
			for name, counter := range c.Counters {
				left[c.CounterSet+"/"+name] -= counter.Value.Value()
			}
		}
	}
	for i := range v.slices {
		s := &v.slices[i]
		if s.Spec.Driver != last.slice.Spec.Driver || s.Spec.Pool.Name != last.slice.Spec.Pool.Name {
			continue
		}
		for _, set := range s.Spec.SharedCounters {
			for name, counter := range set.Counters {
				left[set.Name+"/"+name] += counter.Value.Value()
			}
		}
		for j := range s.Spec.Devices {
			if v.taken(s, &s.Spec.Devices[j]) {
				use(&s.Spec.Devices[j])
			}
		}
	}
	for _, g := range so {
		if g.slice.Spec.Driver == last.slice.Spec.Driver && g.slice.Spec.Pool.Name == last.slice.Spec.Pool.Name {
			use(g.device)
		}
	}
	for _, n := range left {
		if n < 0 {
			return false
		}
	}
	return true
}

// constrained reports whether the constraints of the last device's claim hold.
func (v *naiveDevices) constrained(so []given) bool {
	last := so[len(so)-1]
	for _, c := range last.claim.Spec.Devices.Constraints {
		var values []string
		for _, g := range so {
			if g.claim != last.claim || len(c.Requests) > 0 && !slices.Contains(c.Requests, g.request) && !slices.Contains(c.Requests, g.request+"/"+g.sub) {
				continue
			}
			// There is one attribute that devices need not have.
			a, has := g.device.Attributes["numa"]
			if !has {
				return false
			}
			values = append(values, *a.StringValue)
		}
		slices.Sort(values)
		different := len(slices.Compact(slices.Clone(values)))
		if c.MatchAttribute != nil && different > 1 || c.DistinctAttribute != nil && different < len(values) {
			return false
		}
	}
	return true
}
