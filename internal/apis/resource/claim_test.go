package resource

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks/checkstest"
)

const (
	notLabel  = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
	notDomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
	unknown   = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
)

func tooLong(limit string) string { return "Too long: may not be more than " + limit + " bytes" }

func device(expression string) []resourcev1.DeviceSelector {
	return []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}}
}

func opaque(driver, parameters string) resourcev1.DeviceConfiguration {
	return resourcev1.DeviceConfiguration{Opaque: &resourcev1.OpaqueDeviceConfiguration{Driver: driver, Parameters: runtime.RawExtension{Raw: []byte(parameters)}}}
}

func claim(t *testing.T, r *apis.Resource) *resourcev1.ResourceClaim {
	return checkstest.Parse[*resourcev1.ResourceClaim](t, r, `
metadata: {name: gpu, namespace: default}
spec:
  devices:
    requests:
    - {name: a, exactly: {deviceClassName: gpu.example.com, tolerations: [{key: t}]}}
    - name: b
      firstAvailable:
      - {name: big, deviceClassName: gpu.example.com, tolerations: [{operator: Exists}]}
      - {name: small, deviceClassName: gpu.example.com, allocationMode: All}
`)
}

func TestClaimDefaults(t *testing.T) {
	c := claim(t, checkstest.Find(t, Resources(Grants{}), "resourceclaims"))
	a, b := c.Spec.Devices.Requests[0].Exactly, c.Spec.Devices.Requests[1].FirstAvailable
	if a.AllocationMode != resourcev1.DeviceAllocationModeExactCount || a.Count != 1 || a.Tolerations[0].Operator != resourcev1.DeviceTolerationOpEqual {
		t.Errorf("wrong defaults: %+v", a)
	}
	if b[0].Count != 1 || b[1].Count != 0 {
		t.Errorf("wrong defaults: %+v", b)
	}
}

func TestClaim(t *testing.T) {
	type claimType = resourcev1.ResourceClaim
	change := checkstest.Change[*claimType]
	r := checkstest.Find(t, Resources(Grants{}), "resourceclaims")
	valid := claim(t, r)
	exactly := func(c *claimType) *resourcev1.ExactDeviceRequest { return c.Spec.Devices.Requests[0].Exactly }
	constraint := func(name string, requests ...string) func(*claimType) {
		return func(c *claimType) {
			c.Spec.Devices.Constraints = []resourcev1.DeviceConstraint{{Requests: requests, MatchAttribute: ptr.To(resourcev1.FullyQualifiedName(name))}}
		}
	}
	config := func(c resourcev1.DeviceConfiguration) func(*claimType) {
		return func(o *claimType) {
			o.Spec.Devices.Config = []resourcev1.DeviceClaimConfiguration{{Requests: []string{"a", "b/big"}, DeviceConfiguration: c}}
		}
	}
	const first = "spec.devices.requests[0].exactly"
	checkstest.Create(t, r, valid,
		change("no requests", func(c *claimType) { c.Spec.Devices.Requests = nil }),
		change("no class", func(c *claimType) { exactly(c).DeviceClassName = "" }, first+".deviceClassName: Required value: "),
		change("class", func(c *claimType) { exactly(c).DeviceClassName = "A" }, first+".deviceClassName: Invalid value: "+notDomain),
		change("count", func(c *claimType) { exactly(c).Count = -1 }, first+".count: Invalid value: must be greater than zero"),
		change("count of all", func(c *claimType) { exactly(c).AllocationMode = resourcev1.DeviceAllocationModeAll },
			first+".count: Invalid value: must not be specified when allocationMode is 'All'"),
		change("mode", func(c *claimType) { exactly(c).AllocationMode = "Some" }, first+`.allocationMode: Unsupported value: supported values: "All", "ExactCount"`),
		change("no name", func(c *claimType) { c.Spec.Devices.Requests[0].Name = "" }, "spec.devices.requests[0].name: Invalid value: "+notLabel),
		change("names", func(c *claimType) { c.Spec.Devices.Requests[1].Name = "a" }, "spec.devices.requests[1]: Duplicate value: "),
		change("names within", func(c *claimType) { c.Spec.Devices.Requests[1].FirstAvailable[1].Name = "big" },
			"spec.devices.requests[1].firstAvailable[1]: Duplicate value: "),
		change("too many", func(c *claimType) { c.Spec.Devices.Requests = make([]resourcev1.DeviceRequest, 33) },
			"spec.devices.requests: Too many: must have at most 32 items"),
		change("too many alternatives", func(c *claimType) {
			c.Spec.Devices.Requests[1].FirstAvailable = make([]resourcev1.DeviceSubRequest, 9)
		}, "spec.devices.requests[1].firstAvailable: Too many: must have at most 8 items"),
		change("neither", func(c *claimType) { c.Spec.Devices.Requests[0].Exactly = nil },
			"spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"),
		change("both", func(c *claimType) { c.Spec.Devices.Requests[1].Exactly = exactly(c) },
			"spec.devices.requests[1]: Invalid value: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"),

		change("selector", func(c *claimType) {
			exactly(c).Selectors = device(`device.driver == "x" && device.attributes["x"].model == "m"`)
		}),
		change("no selector", func(c *claimType) { exactly(c).Selectors = []resourcev1.DeviceSelector{{}} }, first+".selectors[0].cel: Required value: "),
		change("type", func(c *claimType) { exactly(c).Selectors = device(`"x"`) },
			first+".selectors[0].cel.expression: Invalid value: must evaluate to bool or the unknown type, not string"),
		change("syntax", func(c *claimType) { exactly(c).Selectors = device(`noSuchVar`) },
			first+".selectors[0].cel.expression: Invalid value: compilation failed: ERROR: <input>:1:1: undeclared reference to 'noSuchVar' (in container '')\n | noSuchVar\n | ^"),
		change("cost", func(c *claimType) {
			exactly(c).Selectors = device(`device.attributes["a"].all(a, device.attributes["b"].all(b, device.attributes["c"].all(c, device.attributes["d"].all(d, a + b == c + d))))`)
		}, first+".selectors[0].cel.expression: Forbidden: too complex, exceeds cost limit"),
		change("length", func(c *claimType) { exactly(c).Selectors = device(strings.Repeat(" ", 10*1024) + "true") },
			first+".selectors[0].cel.expression: "+tooLong("10240")),

		change("toleration", func(c *claimType) {
			exactly(c).Tolerations = []resourcev1.DeviceToleration{{Operator: "Like", Effect: "Some"}, {Operator: "Exists", Value: "v"}, {Key: "-", Operator: "Equal"}}
		}, first+`.tolerations[0].operator: Unsupported value: supported values: "Equal", "Exists"`,
			first+`.tolerations[0].effect: Unsupported value: supported values: "NoExecute", "NoSchedule", "None"`,
			first+".tolerations[1].value: Invalid value: must be empty for operator `Exists`",
			first+".tolerations[2].key: Invalid value: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"),

		change("constraint", constraint("x.example.com/id", "a", "b", "b/small")),
		change("unknown requests", constraint("x/id", "c", "b/c", "a/big", "a/b/c"),
			"spec.devices.constraints[0].requests[0]: Invalid value: "+unknown, "spec.devices.constraints[0].requests[1]: Invalid value: "+unknown,
			"spec.devices.constraints[0].requests[2]: Invalid value: "+unknown, "spec.devices.constraints[0].requests[3]: Invalid value: "+unknown),
		change("request twice", constraint("x/id", "a", "a"), "spec.devices.constraints[0].requests[1]: Duplicate value: "),
		change("bare attribute", constraint("id"),
			"spec.devices.constraints[0].matchAttribute: Invalid value: a fully qualified name must be a domain and a name separated by a slash"),
		change("attribute", constraint("/"+strings.Repeat("i", 33)), "spec.devices.constraints[0].matchAttribute: Invalid value: the domain must not be empty",
			"spec.devices.constraints[0].matchAttribute: "+tooLong("32")),
		change("no attribute", func(c *claimType) { c.Spec.Devices.Constraints = make([]resourcev1.DeviceConstraint, 1) },
			`spec.devices.constraints[0]: Required value: exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`),

		change("config", config(opaque("x.example.com", `{"a":1}`))),
		change("no config", config(resourcev1.DeviceConfiguration{}), "spec.devices.config[0].opaque: Required value: "),
		change("null", config(opaque("x.example.com", "null")), "spec.devices.config[0].opaque.parameters: Required value: "),
		change("empty", config(opaque("x.example.com", "")), "spec.devices.config[0].opaque.parameters: Required value: "),
		change("no object", config(opaque("x.example.com", "1")), "spec.devices.config[0].opaque.parameters: Invalid value: must be a valid JSON object"),
		change("no JSON", config(opaque("x.example.com", "{")),
			"spec.devices.config[0].opaque.parameters: Invalid value: error parsing data as JSON: unexpected end of JSON input"),
		change("long", config(opaque("x.example.com", `{"a":"`+strings.Repeat("x", 10*1024)+`"}`)), "spec.devices.config[0].opaque.parameters: "+tooLong("10240")),
		change("driver", config(opaque("", "{}")), "spec.devices.config[0].opaque.driver: Required value: "),
	)
	checkstest.Update(t, r, valid,
		change("class", func(c *claimType) { exactly(c).DeviceClassName = "b" }, "spec: Invalid value: field is immutable"),
		change("label", func(c *claimType) { c.Labels = map[string]string{"a": "b"} }),
	)
}

func TestClaimTemplate(t *testing.T) {
	type template = resourcev1.ResourceClaimTemplate
	change := checkstest.Change[*template]
	r := checkstest.Find(t, Resources(Grants{}), "resourceclaimtemplates")
	valid := checkstest.Parse[*template](t, r, "metadata: {name: t, namespace: default}\nspec: {spec: {devices: {requests: [{name: a, exactly: {deviceClassName: c}}]}}}")
	checkstest.Create(t, r, valid,
		change("labels", func(o *template) { o.Spec.Labels = map[string]string{"a": "-"} },
			"spec.metadata.labels: Invalid value: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"),
		change("class", func(o *template) { o.Spec.Spec.Devices.Requests[0].Exactly.DeviceClassName = "" },
			"spec.spec.devices.requests[0].exactly.deviceClassName: Required value: "),
	)
	checkstest.Update(t, r, valid,
		change("labels", func(o *template) { o.Spec.Labels = map[string]string{"a": "b"} }, "spec: Invalid value: field is immutable"),
	)
}

func TestDeviceClass(t *testing.T) {
	type class = resourcev1.DeviceClass
	change := checkstest.Change[*class]
	r := checkstest.Find(t, Resources(Grants{}), "deviceclasses")
	valid := checkstest.Parse[*class](t, r, "metadata: {name: c}\nspec: {extendedResourceName: example.com/gpu}")
	valid.Spec.Selectors = device("true")
	const notExtended = "spec.extendedResourceName: Invalid value: must be a valid extended resource name"
	checkstest.Create(t, r, valid,
		change("native", func(c *class) { c.Spec.ExtendedResourceName = ptr.To("cpu") }, notExtended),
		change("ours", func(c *class) { c.Spec.ExtendedResourceName = ptr.To("x.kubernetes.io/gpu") }, notExtended),
		change("quota", func(c *class) { c.Spec.ExtendedResourceName = ptr.To("requests.example.com/gpu") }, notExtended),
		change("too many", func(c *class) { c.Spec.Selectors = make([]resourcev1.DeviceSelector, 33) }, "spec.selectors: Too many: must have at most 32 items"),
		change("configs", func(c *class) { c.Spec.Config = make([]resourcev1.DeviceClassConfiguration, 33) }, "spec.config: Too many: must have at most 32 items"),
	)
	old := valid.DeepCopy()
	old.Spec.Selectors = device(`"once this was allowed"`)
	old.Spec.Config = []resourcev1.DeviceClassConfiguration{{DeviceConfiguration: opaque("x", `{"a":"`+strings.Repeat("x", 10*1024)+`"}`)}}
	checkstest.Update(t, r, old,
		change("label", func(c *class) { c.Labels = map[string]string{"a": "b"} }),
		change("selector", func(c *class) { c.Spec.Selectors = append(c.Spec.Selectors, device("true")...) },
			"spec.selectors[0].cel.expression: Invalid value: must evaluate to bool or the unknown type, not string"),
		change("config", func(c *class) { c.Spec.Config = append(c.Spec.Config, c.Spec.Config[0]) },
			"spec.config[0].opaque.parameters: "+tooLong("10240"), "spec.config[1].opaque.parameters: "+tooLong("10240")),
	)
}

func TestClaimStatus(t *testing.T) {
	type claimType = resourcev1.ResourceClaim
	change := checkstest.Change[*claimType]
	full := checkstest.Find(t, Resources(Grants{}), "resourceclaims")
	// Who may write a status is another test's matter.
	r := *full
	r.ValidateStatusUpdate = func(_ context.Context, c, old apis.Object) field.ErrorList {
		return validateClaimStatus(c.(*claimType), old.(*claimType))
	}
	fresh := claim(t, full)
	if got := r.Cells(fresh)[1]; got != "pending" {
		t.Errorf("state shown as %v", got)
	}
	result := resourcev1.DeviceRequestAllocationResult{Request: "a", Driver: "x.example.com", Pool: "n1/p", Device: "d"}
	allocation := func(results ...resourcev1.DeviceRequestAllocationResult) *resourcev1.AllocationResult {
		return &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: results}}
	}
	with := func(change func(r *resourcev1.DeviceRequestAllocationResult)) func(*claimType) {
		return func(c *claimType) {
			r := result
			change(&r)
			c.Status.Allocation = allocation(r)
		}
	}
	pod := func(uid types.UID) resourcev1.ResourceClaimConsumerReference {
		return resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: "p", UID: uid}
	}
	const at = "status.allocation.devices.results[0]"
	checkstest.UpdateStatus(t, &r, fresh,
		change("allocated", func(c *claimType) { c.Status.Allocation = allocation(result) }),
		change("reserved too early", func(c *claimType) { c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{pod("1")} },
			"status.reservedFor: Forbidden: may not be specified when `allocated` is not set"),
		change("reserved for nobody", func(c *claimType) {
			c.Status.Allocation, c.Status.ReservedFor = allocation(result), make([]resourcev1.ResourceClaimConsumerReference, 1)
		}, "status.reservedFor[0].name: Required value: ", "status.reservedFor[0].resource: Required value: ", "status.reservedFor[0].uid: Required value: "),
		change("reserved twice", func(c *claimType) {
			c.Status.Allocation, c.Status.ReservedFor = allocation(result), []resourcev1.ResourceClaimConsumerReference{pod("1"), pod("1")}
		}, "status.reservedFor[1]: Duplicate value: "),
		change("too many", func(c *claimType) {
			c.Status.Allocation, c.Status.ReservedFor = allocation(result), make([]resourcev1.ResourceClaimConsumerReference, 257)
		}, "status.reservedFor: Too many: must have at most 256 items"),
		change("request", with(func(r *resourcev1.DeviceRequestAllocationResult) { r.Request = "c" }), at+".request: Invalid value: "+unknown),
		change("pool", with(func(r *resourcev1.DeviceRequestAllocationResult) { r.Pool = "" }), at+".pool: Required value: "),
		change("pool's name", with(func(r *resourcev1.DeviceRequestAllocationResult) { r.Pool = "n1/-" }), at+".pool: Invalid value: "+notDomain),
		change("device", with(func(r *resourcev1.DeviceRequestAllocationResult) { r.Device = "d.e" }), at+".device: Invalid value: must not contain dots"),
		change("share", with(func(r *resourcev1.DeviceRequestAllocationResult) { r.ShareID = ptr.To(types.UID("x")) }),
			at+".shareID: Invalid value: error validating uid: invalid UUID length: 1"),
		change("upper case share", with(func(r *resourcev1.DeviceRequestAllocationResult) {
			r.ShareID = ptr.To(types.UID("00000000-0000-0000-0000-00000000000A"))
		}), at+".shareID: Invalid value: uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters"),
		change("binding", with(func(r *resourcev1.DeviceRequestAllocationResult) { r.BindingConditions = []string{"ready"} }),
			at+".bindingFailureConditions: Invalid value: bindingFailureConditions are required to use bindingConditions"),
		change("source", func(c *claimType) {
			c.Status.Allocation = allocation(result)
			c.Status.Allocation.Devices.Config = []resourcev1.DeviceAllocationConfiguration{{DeviceConfiguration: opaque("x", "{}")}, {Source: "FromNowhere", DeviceConfiguration: opaque("x", "{}")}}
		}, "status.allocation.devices.config[0].source: Required value: ",
			`status.allocation.devices.config[1].source: Unsupported value: supported values: "FromClaim", "FromClass"`),
		change("selector", func(c *claimType) {
			c.Status.Allocation = allocation(result)
			c.Status.Allocation.NodeSelector = &corev1.NodeSelector{}
		}, "status.allocation.nodeSelector.nodeSelectorTerms: Required value: must have at least one node selector term"),
	)

	allocated := fresh.DeepCopy()
	allocated.Status.Allocation = allocation(result)
	allocated.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{pod("1")}
	if got := r.Cells(allocated)[1]; got != "allocated,reserved" {
		t.Errorf("state shown as %v", got)
	}
	report := func(change func(d *resourcev1.AllocatedDeviceStatus)) func(*claimType) {
		return func(c *claimType) {
			d := resourcev1.AllocatedDeviceStatus{Driver: "x.example.com", Pool: "n1/p", Device: "d"}
			change(&d)
			c.Status.Devices = []resourcev1.AllocatedDeviceStatus{d}
		}
	}
	checkstest.UpdateStatus(t, &r, allocated,
		change("other allocation", func(c *claimType) { c.Status.Allocation.Devices.Results[0].Device = "e" }, "status.allocation: Invalid value: field is immutable"),
		change("deallocated", func(c *claimType) { c.Status.Allocation, c.Status.ReservedFor = nil, nil }),
		change("report", report(func(d *resourcev1.AllocatedDeviceStatus) {
			d.Data = &runtime.RawExtension{Raw: []byte(`{}`)}
			d.NetworkData = &resourcev1.NetworkDeviceData{IPs: []string{"10.0.0.1/24"}}
		})),
		change("other device", report(func(d *resourcev1.AllocatedDeviceStatus) { d.Device = "e" }),
			"status.devices[0]: Invalid value: must be an allocated device in the claim"),
		change("twice", func(c *claimType) {
			report(func(*resourcev1.AllocatedDeviceStatus) {})(c)
			c.Status.Devices = slices.Concat(c.Status.Devices, c.Status.Devices)
		}, "status.devices[1]: Duplicate value: "),
		change("data", report(func(d *resourcev1.AllocatedDeviceStatus) { d.Data = &runtime.RawExtension{Raw: []byte(`[]`)} }),
			"status.devices[0].data: Invalid value: must be a valid JSON object"),
		change("network", report(func(d *resourcev1.AllocatedDeviceStatus) {
			d.NetworkData = &resourcev1.NetworkDeviceData{
				InterfaceName: strings.Repeat("n", 257), HardwareAddress: strings.Repeat("h", 129), IPs: []string{"10.0.0.1", "10.0.0.01/8", "10.0.0.2/8", "10.0.0.2/8"},
			}
		}), "status.devices[0].networkData.interfaceName: "+tooLong("256"), "status.devices[0].networkData.hardwareAddress: "+tooLong("128"),
			"status.devices[0].networkData.ips[0]: Invalid value: must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
			`status.devices[0].networkData.ips[1]: Invalid value: must be in canonical form ("10.0.0.1/8")`,
			"status.devices[0].networkData.ips[3]: Duplicate value: "),
		change("conditions", report(func(d *resourcev1.AllocatedDeviceStatus) {
			for _, kind := range strings.Split("abcdefghi", "") {
				d.Conditions = append(d.Conditions, metav1.Condition{Type: kind, Status: "True", Reason: "R", LastTransitionTime: metav1.Now()})
			}
		}), "status.devices[0].conditions: Too many: must have at most 8 items"),
	)
	deleted := allocated.DeepCopy()
	deleted.DeletionTimestamp = ptr.To(metav1.Now())
	checkstest.UpdateStatus(t, &r, deleted,
		change("one more", func(c *claimType) { c.Status.ReservedFor = append(c.Status.ReservedFor, pod("2")) },
			"status.reservedFor: Forbidden: new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"),
		change("another", func(c *claimType) { c.Status.ReservedFor[0].UID = "2" },
			"status.reservedFor: Forbidden: new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"),
		change("one fewer", func(c *claimType) { c.Status.ReservedFor = nil }),
	)

	// Reports on devices go with the allocation.
	reported := allocated.DeepCopy()
	report(func(*resourcev1.AllocatedDeviceStatus) {})(reported)
	freed := reported.DeepCopy()
	freed.Status.Allocation = nil
	r.PrepareStatusUpdate(t.Context(), freed, reported)
	if freed.Status.Devices != nil {
		t.Errorf("a freed claim still has reports: %+v", freed.Status.Devices)
	}
	kept := reported.DeepCopy()
	r.PrepareStatusUpdate(t.Context(), kept, reported)
	if len(kept.Status.Devices) != 1 {
		t.Error("a report is lost")
	}
}
