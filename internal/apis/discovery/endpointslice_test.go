package discovery

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func TestEndpointSlice(t *testing.T) {
	change := checkstest.Change[*discoveryv1.EndpointSlice]
	r := checkstest.Find(t, Resources(), "endpointslices")
	valid := checkstest.Parse[*discoveryv1.EndpointSlice](t, r, `
metadata: {name: web-1, namespace: default}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}]
ports: [{port: 80}, {name: admin, port: 8080, protocol: UDP}]
`)
	if p := valid.Ports[0]; *p.Name != "" || *p.Protocol != "TCP" {
		t.Errorf("wrong defaults: %+v", p)
	}
	if got := r.Cells(valid); got[1] != "IPv4" || got[2] != "80,8080" || got[3] != "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more..." {
		t.Errorf("shown as %v", got)
	}
	checkstest.Create(t, r, valid,
		change("no type", func(s *discoveryv1.EndpointSlice) { s.AddressType = "" }, "addressType: Required value: "),
		change("type", func(s *discoveryv1.EndpointSlice) { s.AddressType = "IP" }, `addressType: Unsupported value: supported values: "FQDN", "IPv4", "IPv6"`),
		change("no address", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = nil },
			"endpoints[0].addresses: Required value: must contain at least 1 address"),
		change("no IP", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "web" },
			"endpoints[0].addresses[0]: Invalid value: must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
		change("family", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "fd00::1" },
			"endpoints[0].addresses: Invalid value: must be an IPv4 address"),
		change("loopback", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "127.0.0.1" },
			"endpoints[0].addresses[0]: Invalid value: may not be in the loopback range (127.0.0.0/8, ::1/128)"),
		change("link-local", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "169.254.1.1" },
			"endpoints[0].addresses[0]: Invalid value: may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
		change("hostname", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Hostname = ptr.To("a.b") },
			"endpoints[0].hostname: Invalid value: must not contain dots"),
		change("hints", func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "a"}}}
		}, "endpoints[0].hints.forZones[1].name: Duplicate value: "),
		change("port names", func(s *discoveryv1.EndpointSlice) { s.Ports[1].Name = ptr.To("") }, "ports[1].name: Duplicate value: "),
		change("protocol", func(s *discoveryv1.EndpointSlice) { *s.Ports[0].Protocol = "ICMP" },
			`ports[0].protocol: Unsupported value: supported values: "SCTP", "TCP", "UDP"`),
		change("too many", func(s *discoveryv1.EndpointSlice) { s.Endpoints = make([]discoveryv1.Endpoint, 1001) },
			"endpoints: Too many: must have at most 1000 items"),
	)
	checkstest.Update(t, r, valid,
		change("type", func(s *discoveryv1.EndpointSlice) { s.AddressType, s.Endpoints = "IPv6", nil }, "addressType: Invalid value: field is immutable"),
	)
	old := valid.DeepCopy()
	old.Endpoints[0].Addresses[0] = "010.0.0.1"
	checkstest.Update(t, r, old,
		change("as before", func(s *discoveryv1.EndpointSlice) { s.Ports = nil }),
		change("other address", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "010.0.0.2" },
			"endpoints[0].addresses[0]: Invalid value: must not have leading 0s"),
	)
	if got := r.Warnings(t.Context(), old, nil); len(got) != 1 || got[0] != `endpoints[0].addresses[0]: non-standard IP address "010.0.0.1" is invalid: use "10.0.0.1"` {
		t.Errorf("warned of %q", got)
	}
	old.Labels = map[string]string{discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}
	if got := r.Warnings(t.Context(), old, nil); len(got) != 0 {
		t.Errorf("warned the controller of %q", got)
	}
	old.AddressType = "FQDN"
	if got := r.Warnings(t.Context(), old, old); len(got) != 0 {
		t.Errorf("an update was warned of %q", got)
	}
	if got := r.Warnings(t.Context(), old, nil); len(got) != 1 || got[0] != "spec.addressType: FQDN endpoints are deprecated" {
		t.Errorf("warned of %q", got)
	}
	old.Ports, old.Endpoints = []discoveryv1.EndpointPort{{}, {Name: ptr.To("web")}}, nil
	if got := r.Cells(old); got[2] != "*,web" || got[3] != "<unset>" {
		t.Errorf("shown as %v", got)
	}
	old.Ports = []discoveryv1.EndpointPort{{Name: ptr.To("")}}
	if got := r.Cells(old); got[2] != "<unset>" {
		t.Errorf("a port that is all ports is shown as %v", got[2])
	}
	valid.Endpoints[0].DeprecatedTopology = map[string]string{"a": strings.Repeat("b", 3)}
	r.Discard(t.Context(), valid, nil)
	if valid.Endpoints[0].DeprecatedTopology != nil {
		t.Error("a v1 client set the deprecated topology")
	}
	stored := valid.DeepCopy()
	stored.Endpoints[0].DeprecatedTopology = map[string]string{corev1.LabelHostname: "node-1"}
	same, other := stored.DeepCopy(), stored.DeepCopy()
	other.Endpoints[0].Addresses[0] = "10.0.0.9"
	r.Discard(t.Context(), same, stored)
	r.Discard(t.Context(), other, stored)
	if same.Endpoints[0].DeprecatedTopology == nil || other.Endpoints[0].DeprecatedTopology != nil || ptr.Deref(other.Endpoints[0].NodeName, "") != "node-1" {
		t.Errorf("endpoints as before become %+v, others %+v", same.Endpoints[0], other.Endpoints[0])
	}
	if !r.NewGeneration(old, same) || r.NewGeneration(same, stored) {
		t.Error("labels are not what counts beside the content")
	}
}
