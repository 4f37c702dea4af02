package resource

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

type slice = resourcev1.ResourceSlice

func TestSlice(t *testing.T) {
	change := checkstest.Change[*slice]
	r := checkstest.Find(t, Resources(Grants{}), "resourceslices")
	valid := checkstest.Parse[*slice](t, r, "metadata: {name: s}\nspec: {driver: gpu.example.com, nodeName: n1, pool: {name: n1, resourceSliceCount: 1}, devices: [{name: a}]}")
	const choices = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	const perDevice = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	choosing := func(change func(d *resourcev1.Device)) func(*slice) {
		return func(s *slice) {
			s.Spec.NodeName, s.Spec.PerDeviceNodeSelection = nil, ptr.To(true)
			change(&s.Spec.Devices[0])
		}
	}
	many := func(n int, change func(d *resourcev1.Device)) func(*slice) {
		return func(s *slice) {
			s.Spec.Devices = nil
			for i := range n {
				s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: fmt.Sprintf("d%d", i)})
			}
			change(&s.Spec.Devices[0])
		}
	}
	counters := func(names ...string) map[string]resourcev1.Counter {
		out := map[string]resourcev1.Counter{}
		for _, n := range names {
			out[n] = resourcev1.Counter{Value: resource.MustParse("1")}
		}
		return out
	}
	checkstest.Create(t, r, valid,
		change("no driver", func(s *slice) { s.Spec.Driver = "" }, "spec.driver: Required value: "),
		change("long driver", func(s *slice) { s.Spec.Driver = strings.Repeat("d", 64) }, "spec.driver: "+tooLong("63")),
		change("pool", func(s *slice) { s.Spec.Pool = resourcev1.ResourcePool{Generation: -1} }, "spec.pool.name: Required value: ",
			"spec.pool.resourceSliceCount: Invalid value: must be greater than zero", "spec.pool.generation: Invalid value: must be greater than or equal to zero"),
		change("no node", func(s *slice) { s.Spec.NodeName = nil }, "spec: Required value: "+choices),
		change("empty node", func(s *slice) { s.Spec.NodeName = ptr.To("") },
			"spec.nodeName: Invalid value: must be either unset or set to a non-empty string", "spec: Required value: "+choices),
		change("two ways", func(s *slice) { s.Spec.AllNodes = ptr.To(true) }, "spec: Invalid value: "+choices+", but multiple fields are set"),
		change("not all", func(s *slice) { s.Spec.AllNodes = ptr.To(false) }, "spec.allNodes: Invalid value: must be either unset or set to true"),
		change("terms", func(s *slice) { s.Spec.NodeName, s.Spec.NodeSelector = nil, &corev1.NodeSelector{} },
			"spec.nodeSelector.nodeSelectorTerms: Required value: must have at least one node selector term",
			"spec.nodeSelector.nodeSelectorTerms: Invalid value: must have exactly one node selector term"),
		change("device twice", func(s *slice) { s.Spec.Devices = append(s.Spec.Devices, s.Spec.Devices[0]) }, "spec.devices[1]: Duplicate value: "),
		change("many", many(128, func(*resourcev1.Device) {})),
		change("too many", many(129, func(*resourcev1.Device) {}), "spec.devices: Too many: must have at most 128 items"),
		change("too many with taints", many(65, func(d *resourcev1.Device) {
			d.Taints = []resourcev1.DeviceTaint{{Key: "k", Effect: "None"}}
		}), "spec.devices: Too many: must have at most 64 items"),
		change("nodes of devices", choosing(func(d *resourcev1.Device) { d.AllNodes = ptr.To(true) })),
		change("no nodes of devices", choosing(func(*resourcev1.Device) {}), "spec.devices[0]: Required value: "+perDevice),
		change("devices' nodes twice", choosing(func(d *resourcev1.Device) { d.AllNodes, d.NodeName = ptr.To(true), ptr.To("n") }), "spec.devices[0]: Invalid value: "+perDevice),
		change("devices' nodes uncalled for", func(s *slice) { s.Spec.Devices[0].NodeName = ptr.To("n") },
			"spec.devices[0]: Invalid value: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"),
		change("counters", func(s *slice) {
			s.Spec.Devices, s.Spec.SharedCounters = nil, []resourcev1.CounterSet{{Name: "c", Counters: counters("memory")}}
		}),
		change("bad counters", func(s *slice) {
			s.Spec.Devices, s.Spec.SharedCounters = nil, []resourcev1.CounterSet{{Counters: counters("A")}, {Name: "c"}, {Name: "c", Counters: counters("m")}}
		}, "spec.sharedCounters[0].name: Required value: ", "spec.sharedCounters[0].counters: Invalid value: "+notLabel,
			"spec.sharedCounters[1].counters: Required value: ", "spec.sharedCounters[2]: Duplicate value: "),
		change("counters and devices", func(s *slice) { s.Spec.SharedCounters = []resourcev1.CounterSet{} },
			"spec: Invalid value: only one of `sharedCounters` or `devices` is allowed"),
		change("consumption", func(s *slice) {
			s.Spec.Devices[0].ConsumesCounters = []resourcev1.DeviceCounterConsumption{{CounterSet: "c"}, {Counters: counters("m")}}
		}, "spec.devices[0].consumesCounters[0].counters: Required value: ", "spec.devices[0].consumesCounters[1].counterSet: Required value: "),
		change("too much consumption", func(s *slice) {
			s.Spec.Devices[0].ConsumesCounters = make([]resourcev1.DeviceCounterConsumption, 3)
		}, "spec.devices[0].consumesCounters: Too many: must have at most 2 items"),
		change("binding", func(s *slice) {
			s.Spec.Devices[0].BindingConditions, s.Spec.Devices[0].BindingFailureConditions = []string{"a", "a"}, []string{"a", "b", "c", "d", "e"}
		}, "spec.devices[0].bindingConditions[1]: Duplicate value: ", "spec.devices[0].bindingFailureConditions: Too many: must have at most 4 items",
			"spec.devices[0].bindingFailureConditions[0]: Invalid value: bindingFailureConditions must not overlap with bindingConditions"),
		change("failures alone", func(s *slice) { s.Spec.Devices[0].BindingFailureConditions = []string{"a"} },
			"spec.devices[0].bindingConditions: Invalid value: bindingConditions are required to use bindingFailureConditions"),
		change("taint", func(s *slice) {
			s.Spec.Devices[0].Taints = []resourcev1.DeviceTaint{{Key: "k"}, {Key: "k", Effect: "Some"}}
		}, "spec.devices[0].taints[0].effect: Required value: ",
			`spec.devices[0].taints[1].effect: Unsupported value: supported values: "NoExecute", "NoSchedule", "None"`),
	)
	checkstest.Update(t, r, valid,
		change("driver", func(s *slice) { s.Spec.Driver = "b.example.com" }, "spec.driver: Invalid value: field is immutable"),
		change("pool", func(s *slice) { s.Spec.Pool.Name = "n2" }, "spec.pool.name: Invalid value: field is immutable"),
		change("node", func(s *slice) { s.Spec.NodeName = ptr.To("n2") }, "spec.nodeName: Invalid value: field is immutable"),
		change("devices", func(s *slice) { s.Spec.Devices[0].Name = "b" }),
	)
	old := valid.DeepCopy()
	old.Spec.Devices[0].Taints = []resourcev1.DeviceTaint{{Key: "k", Effect: "OfTheFuture"}}
	checkstest.Update(t, r, old,
		change("tolerated taint", func(s *slice) { s.Spec.Pool.Generation++ }),
		change("new taint", func(s *slice) { s.Spec.Devices[0].Taints[0].Value = "v" },
			`spec.devices[0].taints[0].effect: Unsupported value: supported values: "NoExecute", "NoSchedule", "None"`),
	)
	capital := valid.DeepCopy()
	capital.Spec.Driver = "GPU.example.com"
	if got := r.Warnings(t.Context(), capital, nil); len(got) != 1 || got[0] != `spec.driver: driver names should be lowercase; "GPU.example.com" contains uppercase characters` {
		t.Errorf("warned of %q", got)
	}
	if got := r.Cells(capital); got[1] != "n1" || got[2] != "GPU.example.com" || got[3] != "n1" {
		t.Errorf("shown as %v", got)
	}
	capital.Spec.NodeName = nil
	if got := r.Cells(capital); got[1] != "<unset>" {
		t.Errorf("without a node shown as %v", got)
	}
}

func TestSliceFields(t *testing.T) {
	r := checkstest.Find(t, Resources(Grants{}), "resourceslices")
	s := &slice{Spec: resourcev1.ResourceSliceSpec{Devices: []resourcev1.Device{{
		Name:                            "a",
		Taints:                          []resourcev1.DeviceTaint{{Key: "k", Effect: resourcev1.DeviceTaintEffectNoExecute}},
		Attributes:                      map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"x": {IntValues: []int64{1}}},
		NodeAllocatableResourceMappings: map[corev1.ResourceName]resourcev1.NodeAllocatableResourceMapping{"cpu": {}},
	}}}}
	kept := s.DeepCopy()
	r.Discard(t.Context(), kept, s)
	if d := kept.Spec.Devices[0]; d.Attributes["x"].IntValues == nil || d.NodeAllocatableResourceMappings == nil {
		t.Errorf("an update lost fields that were in use: %+v", d)
	}
	r.PrepareCreate(t.Context(), s)
	r.Discard(t.Context(), s, nil)
	if s.Spec.Devices[0].Taints[0].TimeAdded == nil {
		t.Error("a taint has no time")
	}
	if d := s.Spec.Devices[0]; d.Attributes["x"].IntValues != nil || d.NodeAllocatableResourceMappings != nil {
		t.Errorf("fields of features that are off stay: %+v", d)
	}
}

func TestAttributes(t *testing.T) {
	change := checkstest.Change[*slice]
	r := checkstest.Find(t, Resources(Grants{}), "resourceslices")
	valid := checkstest.Parse[*slice](t, r, `
metadata: {name: s}
spec:
  driver: gpu.example.com
  allNodes: true
  pool: {name: n1, resourceSliceCount: 1}
  devices:
  - name: a
    attributes: {model: {string: m}, x.example.com/version: {version: 1.2.3-alpha.1+build.7}}
`)
	const at = "spec.devices[0].attributes"
	attribute := func(name string, a resourcev1.DeviceAttribute) func(*slice) {
		return func(s *slice) {
			s.Spec.Devices[0].Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{resourcev1.QualifiedName(name): a}
		}
	}
	yes := resourcev1.DeviceAttribute{BoolValue: ptr.To(true)}
	long := strings.Repeat("x", 65)
	checkstest.Create(t, r, valid,
		change("none", attribute("a", resourcev1.DeviceAttribute{}), at+"[a]: Invalid value: exactly one value must be specified"),
		change("two", attribute("a", resourcev1.DeviceAttribute{BoolValue: ptr.To(true), IntValue: ptr.To[int64](1)}), at+"[a]: Invalid value: exactly one value must be specified"),
		change("version", attribute("a", resourcev1.DeviceAttribute{VersionValue: ptr.To("1.02.3")}),
			at+"[a].version: Invalid value: must be a string compatible with semver.org spec 2.0.0"),
		change("long", attribute("a", resourcev1.DeviceAttribute{StringValue: &long}), at+"[a].string: "+tooLong("64")),
		change("no domain", attribute("/a", yes), at+": Invalid value: the domain must not be empty"),
		change("no name", attribute("x.example.com/", yes), at+": Invalid value: the name must not be empty"),
		change("identifier", attribute("a-b", yes),
			at+": Invalid value: a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')"),
		change("long name", attribute(strings.Repeat("a", 200), resourcev1.DeviceAttribute{}), at+": "+tooLong("32"),
			at+"["+strings.Repeat("a", 47)+"..."+strings.Repeat("a", 46)+"]: Invalid value: exactly one value must be specified"),
		change("too many", func(s *slice) {
			for i := range 33 {
				s.Spec.Devices[0].Attributes[resourcev1.QualifiedName(fmt.Sprintf("a%d", i))] = yes
			}
		}, "spec.devices[0]: Invalid value: the total number of attributes and capacities must not exceed 32"),
	)
}

func TestCapacity(t *testing.T) {
	change := checkstest.Change[*slice]
	r := checkstest.Find(t, Resources(Grants{}), "resourceslices")
	valid := checkstest.Parse[*slice](t, r, `
metadata: {name: s}
spec:
  driver: gpu.example.com
  allNodes: true
  pool: {name: n1, resourceSliceCount: 1}
  devices:
  - name: a
    allowMultipleAllocations: true
    capacity: {memory: {value: 10, requestPolicy: {default: 2, validValues: [1, 2, 4]}}}
`)
	const at = "spec.devices[0].capacity[memory].requestPolicy"
	q := func(text string) *resource.Quantity { return ptr.To(resource.MustParse(text)) }
	policy := func(p resourcev1.CapacityRequestPolicy) func(*slice) {
		return func(s *slice) {
			s.Spec.Devices[0].Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: *q("10"), RequestPolicy: &p}}
		}
	}
	ranged := func(wish string, r resourcev1.CapacityRequestPolicyRange) func(*slice) {
		return policy(resourcev1.CapacityRequestPolicy{Default: q(wish), ValidRange: &r})
	}
	checkstest.Create(t, r, valid,
		change("not shared", func(s *slice) { s.Spec.Devices[0].AllowMultipleAllocations = nil }, at+": Forbidden: allowMultipleAllocations must be true"),
		change("both", policy(resourcev1.CapacityRequestPolicy{ValidValues: []resource.Quantity{*q("1")}, ValidRange: &resourcev1.CapacityRequestPolicyRange{}}),
			at+`: Forbidden: exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`),
		change("values without default", policy(resourcev1.CapacityRequestPolicy{ValidValues: []resource.Quantity{*q("1")}}),
			at+".default: Required value: required when validValues is defined"),
		change("values", policy(resourcev1.CapacityRequestPolicy{Default: q("3"), ValidValues: []resource.Quantity{*q("2"), *q("1"), *q("11"), *q("11")}}),
			at+".validValues[1]: Invalid value: values must be sorted in ascending order", at+".validValues[2]: Invalid value: option is larger than capacity value: 10",
			at+".validValues[3]: Invalid value: option is larger than capacity value: 10", at+".validValues[3]: Duplicate value: ",
			at+".validValues: Invalid value: default value is not valid according to the requestPolicy"),
		change("range", ranged("4", resourcev1.CapacityRequestPolicyRange{Min: q("2"), Max: q("8"), Step: q("2")})),
		change("range without default", policy(resourcev1.CapacityRequestPolicy{ValidRange: &resourcev1.CapacityRequestPolicyRange{}}),
			at+".default: Required value: required when validRange is defined"),
		change("no minimum", ranged("1", resourcev1.CapacityRequestPolicyRange{}), at+".validRange.min: Required value: required when validRange is defined"),
		change("minimum", ranged("1", resourcev1.CapacityRequestPolicyRange{Min: q("11")}), at+".validRange.min: Invalid value: min is larger than capacity value: 10",
			at+".validRange.min: Invalid value: default is less than min: 11"),
		change("maximum", ranged("13", resourcev1.CapacityRequestPolicyRange{Min: q("1"), Max: q("12")}), at+".validRange.max: Invalid value: max is larger than capacity value: 10",
			at+".validRange.max: Invalid value: default is more than max: 12"),
		change("order", ranged("4", resourcev1.CapacityRequestPolicyRange{Min: q("4"), Max: q("3")}), at+".validRange.max: Invalid value: min is larger than max: 3",
			at+".validRange.max: Invalid value: default is more than max: 3"),
		change("step", ranged("3", resourcev1.CapacityRequestPolicyRange{Min: q("2"), Max: q("9"), Step: q("2")}),
			at+".validRange.step: Invalid value: value is not a multiple of a given step (2) from (2)", at+".validRange.step: Invalid value: value is not a multiple of a given step (2) from (2)"),
		change("no step", ranged("2", resourcev1.CapacityRequestPolicyRange{Min: q("2"), Step: q("0")}), at+".validRange.step: Invalid value: must be greater than zero"),
		change("huge step", ranged("2", resourcev1.CapacityRequestPolicyRange{Min: q("2"), Step: q("18446744073709551616")}), at+".validRange.step: Invalid value: must be greater than zero"),
		change("wide step", ranged("2", resourcev1.CapacityRequestPolicyRange{Min: q("2"), Step: q("9")}),
			at+".validRange.step: Invalid value: one step 11 is larger than capacity value: 10"),
	)
	old := valid.DeepCopy()
	old.Spec.Devices[0].AllowMultipleAllocations = nil
	checkstest.Update(t, r, old,
		change("policy of before", func(s *slice) { s.Spec.Pool.Generation++ }, at+": Forbidden: allowMultipleAllocations must be true"),
	)
}
