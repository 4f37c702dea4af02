package resource

import (
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func TestResourceClaim(t *testing.T) {
	type claim = resourcev1.ResourceClaim
	change := checkstest.Change[*claim]
	r := checkstest.Find(t, Resources(), "resourceclaims")
	valid := checkstest.Parse[*claim](t, r, `
metadata: {name: gpu, namespace: default}
spec: {devices: {requests: [{name: a, exactly: {deviceClassName: gpu.example.com, tolerations: [{key: t}]}}]}}
`)
	e := valid.Spec.Devices.Requests[0].Exactly
	if e.AllocationMode != resourcev1.DeviceAllocationModeExactCount || e.Count != 1 || e.Tolerations[0].Operator != resourcev1.DeviceTolerationOpEqual {
		t.Errorf("wrong defaults: %+v", e)
	}
	first := func(c *claim) *resourcev1.DeviceRequest { return &c.Spec.Devices.Requests[0] }
	checkstest.Create(t, r, valid,
		change("no class", func(c *claim) { first(c).Exactly.DeviceClassName = "" }, "spec.devices.requests[0].exactly.deviceClassName: Required value: "),
		change("count", func(c *claim) { first(c).Exactly.Count = -1 }, "spec.devices.requests[0].exactly.count: Invalid value: must be greater than zero"),
		change("expression", func(c *claim) {
			first(c).Exactly.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `"x"`}}}
		}, "spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: must evaluate to bool or the unknown type, not string"),
		change("neither", func(c *claim) { first(c).Exactly = nil }, "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"),
		change("unknown request", func(c *claim) {
			c.Spec.Devices.Constraints = []resourcev1.DeviceConstraint{{Requests: []string{"b"}, MatchAttribute: ptr.To[resourcev1.FullyQualifiedName]("x/y")}}
		}, "spec.devices.constraints[0].requests[0]: Invalid value: must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"),
	)
	checkstest.Update(t, r, valid,
		change("class", func(c *claim) { first(c).Exactly.DeviceClassName = "b" }, "spec: Invalid value: field is immutable"),
	)
	checkstest.UpdateStatus(t, r, valid,
		change("reserved too early", func(c *claim) {
			c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "1"}}
		}, "status.reservedFor: Forbidden: may not be specified when `allocated` is not set"),
	)
	if got := r.Cells(valid)[1]; got != "pending" {
		t.Errorf("state shown as %v", got)
	}
}

func TestResourceSlice(t *testing.T) {
	type slice = resourcev1.ResourceSlice
	change := checkstest.Change[*slice]
	r := checkstest.Find(t, Resources(), "resourceslices")
	valid := checkstest.Parse[*slice](t, r, "metadata: {name: s}\nspec: {driver: gpu.example.com, nodeName: n1, pool: {name: n1, resourceSliceCount: 1}, devices: [{name: a}]}")
	checkstest.Create(t, r, valid,
		change("no node", func(s *slice) { s.Spec.NodeName = nil },
			"spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"),
		change("device twice", func(s *slice) { s.Spec.Devices = append(s.Spec.Devices, s.Spec.Devices[0]) }, "spec.devices[1].name: Duplicate value: "),
	)
	checkstest.Update(t, r, valid,
		change("driver", func(s *slice) { s.Spec.Driver = "b.example.com" }, "spec.driver: Invalid value: field is immutable"),
	)
	valid.Spec.Devices[0].Taints = []resourcev1.DeviceTaint{{Key: "k", Effect: resourcev1.DeviceTaintEffectNoExecute}}
	r.PrepareCreate(t.Context(), valid)
	if valid.Spec.Devices[0].Taints[0].TimeAdded == nil {
		t.Error("a taint has no time")
	}
}
