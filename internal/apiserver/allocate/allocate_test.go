package allocate

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
)

// fixture is an allocator whose Services the test stores itself.
type fixture struct {
	*testing.T
	*Allocator
	clock *clocktesting.FakePassiveClock
}

func start(t *testing.T, ranges ...string) *fixture {
	var parsed []netip.Prefix
	for _, r := range ranges {
		parsed = append(parsed, netip.MustParsePrefix(r))
	}
	clock := clocktesting.NewFakePassiveClock(time.Unix(1e9, 0))
	return &fixture{T: t, Allocator: New(parsed, clock, nil), clock: clock}
}

// service makes a Service of the name, which is its UID, too.
func (f *fixture) service(name, spec string) *corev1.Service {
	f.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	if err := yaml.UnmarshalStrict([]byte(spec), &s.Spec); err != nil {
		f.Fatalf("%v in %s", err, spec)
	}
	if s.Spec.Type == "" {
		s.Spec.Type = corev1.ServiceTypeClusterIP
	}
	if s.Spec.ClusterIP == "" && len(s.Spec.ClusterIPs) > 0 {
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	return s
}

func attributes(s, old *corev1.Service, dry bool) *admission.Attributes {
	at := &admission.Attributes{Operation: admission.Create, Object: s, DryRun: dry, Resource: &apis.Resource{Names: apis.Names{Resource: "services"}}}
	if old != nil {
		at.Operation, at.Old = admission.Update, old
	}
	return at
}

// write takes a write as far as validation.
func (f *fixture) write(s, old *corev1.Service) (undo func(), err error) {
	return f.Complete(context.Background(), attributes(s, old, false))
}

// must is write for what is not refused.
func (f *fixture) must(s, old *corev1.Service) (undo func()) {
	f.Helper()
	undo, err := f.write(s, old)
	if err != nil {
		f.Fatal(err)
	}
	return undo
}

// stored creates a Service and stores it.
func (f *fixture) stored(name, spec string) *corev1.Service {
	f.Helper()
	s := f.service(name, spec)
	f.must(s, nil)
	f.replaceService(nil, s)
	return s
}

// has shows what a Service has been given: addresses, node ports, and the port
// of health checks.
func has(s *corev1.Service) string {
	out := slices.Clone(s.Spec.ClusterIPs)
	for _, p := range s.Spec.Ports {
		out = append(out, fmt.Sprint(p.NodePort))
	}
	if p := s.Spec.HealthCheckNodePort; p != 0 {
		out = append(out, fmt.Sprintf("health %d", p))
	}
	return strings.Join(out, " ")
}

// TestAsked has Services that say which addresses and ports they want.
func TestAsked(t *testing.T) {
	const taken = "{type: NodePort, clusterIPs: [10.0.0.7], ports: [{port: 80, nodePort: 30007}]}"
	for _, tt := range []struct {
		name string
		// old is what the Service was before an update, if it is one.
		old, spec string
		dry       bool
		want      string
	}{
		{"address", "", "{clusterIPs: [10.0.0.9], ports: [{port: 80}]}", false, "10.0.0.9 0"},
		{"both families", "", "{clusterIPs: ['fd00::9', 10.0.0.9], ipFamilyPolicy: RequireDualStack}", false, "fd00::9 10.0.0.9"},
		{"taken address", "", "{clusterIPs: [10.0.0.7]}", false,
			`Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.0.0.7"]: failed to allocate IP 10.0.0.7: provided IP is already allocated`},
		{"taken address, dry", "", "{clusterIPs: [10.0.0.7]}", true, "10.0.0.7"},
		{"address of the network", "", "{clusterIPs: [10.0.0.0]}", false,
			`Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.0.0.0"]: failed to allocate IP 10.0.0.0: the provided network does not match the current range`},
		{"address of broadcasts", "", "{clusterIPs: [10.0.0.255]}", false,
			`Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.0.0.255"]: failed to allocate IP 10.0.0.255: the provided network does not match the current range`},
		{"last address of IPv6", "", "{clusterIPs: ['fd00::ff']}", false, "fd00::ff"},
		{"address elsewhere, dry", "", "{clusterIPs: [10.0.1.7]}", true,
			`Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.0.1.7"]: failed to allocate IP 10.0.1.7: the provided IP (10.0.1.7) is not in the valid range. The range of valid IPs is 10.0.0.0/24`},
		{"headless", "", "{clusterIPs: [None], selector: {a: b}}", false, "None"},
		{"external name", "", "{type: ExternalName, externalName: example.com}", false, ""},
		{"not an address", "", "{clusterIPs: [x]}", false,
			`Service "s" is invalid: spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},

		{"port", "", "{type: NodePort, clusterIPs: [10.0.0.9], ports: [{port: 80, nodePort: 30001}]}", false, "10.0.0.9 30001"},
		{"taken port", "", "{type: NodePort, ports: [{port: 81}, {port: 80, nodePort: 30007, protocol: UDP}]}", false,
			`Service "s" is invalid: spec.ports[1].nodePort: Invalid value: 30007: provided port is already allocated`},
		{"taken port, dry", "", "{type: NodePort, ports: [{port: 80, nodePort: 30007}]}", true,
			`Service "s" is invalid: spec.ports[0].nodePort: Invalid value: 30007: provided port is already allocated`},
		{"port out of range", "", "{type: NodePort, ports: [{port: 80, nodePort: 32768}]}", false,
			`Service "s" is invalid: spec.ports[0].nodePort: Invalid value: 32768: provided port is not in the valid range. The range of valid ports is 30000-32767`},
		{"port twice, dry", "", "{type: NodePort, ports: [{port: 80, nodePort: 30001}, {port: 81, nodePort: 30001}]}", true,
			`Service "s" is invalid: spec.ports[1].nodePort: Invalid value: 30001: provided port is already allocated`},
		{"shared port", "", "{type: NodePort, clusterIPs: [10.0.0.9], ports: [{port: 80}, {port: 80, protocol: UDP, nodePort: 30001}]}", false, "10.0.0.9 30001 30001"},
		{"ports of one number", "", "{type: NodePort, clusterIPs: [10.0.0.9], ports: [{port: 80, nodePort: 30001}, {port: 80, protocol: UDP, nodePort: 30002}]}", false, "10.0.0.9 30001 30002"},
		{"no node ports", "", "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, clusterIPs: [10.0.0.9], ports: [{port: 80}, {port: 81, nodePort: 30001}]}", false, "10.0.0.9 0 30001"},
		{"health checks", "", "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30002, clusterIPs: [10.0.0.9], ports: [{port: 80, nodePort: 30001}]}", false,
			"10.0.0.9 30001 health 30002"},
		{"taken port for health checks", "", "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30007, ports: [{port: 80}]}", false,
			"Internal error occurred: failed to allocate requested HealthCheck NodePort 30007: provided port is already allocated"},
		{"one port for both", "", "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001, ports: [{port: 80, nodePort: 30001}]}", false,
			"Internal error occurred: failed to allocate requested HealthCheck NodePort 30001: provided port is already allocated"},

		{"keeps what it has", "{type: NodePort, clusterIPs: [10.0.0.9], ports: [{port: 80, nodePort: 30001}]}",
			"{type: NodePort, clusterIPs: [10.0.0.9], ipFamilies: [IPv4], ports: [{port: 80, nodePort: 30001}, {port: 81, nodePort: 30002}]}", false, "10.0.0.9 30001 30002"},
		{"takes another's port", "{clusterIPs: [10.0.0.9], ports: [{port: 80}]}",
			"{type: NodePort, clusterIPs: [10.0.0.9], ipFamilies: [IPv4], ports: [{port: 80, nodePort: 30007}]}", false,
			`Service "s" is invalid: spec.ports[0].nodePort: Invalid value: 30007: provided port is already allocated`},
		{"becomes dual-stack", "{clusterIPs: [10.0.0.9]}",
			"{clusterIPs: [10.0.0.9, 'fd00::9'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack}", false, "10.0.0.9 fd00::9"},
		{"is no external name any more", "{type: ExternalName, externalName: example.com}", "{clusterIPs: [10.0.0.9]}", false, "10.0.0.9"},
		{"remains headless", "{clusterIPs: [None], selector: {a: b}}", "{clusterIPs: [None], selector: {a: c}, ipFamilies: [IPv4]}", false, "None"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, "10.0.0.0/24", "fd00::/120")
			f.stored("taken", taken)
			var old *corev1.Service
			if tt.old != "" {
				old = f.stored("s", tt.old)
			}
			s := f.service("s", tt.spec)
			got := ""
			if _, err := f.Complete(t.Context(), attributes(s, old, tt.dry)); err != nil {
				got = err.Error()
			} else {
				got = has(s)
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestGiven has Services that take what they get, and what that is.
func TestGiven(t *testing.T) {
	for _, tt := range []struct {
		name, spec        string
		ips, ports, check int
	}{
		{"address", "{ports: [{port: 80}]}", 1, 0, 0},
		{"both families", "{ipFamilyPolicy: PreferDualStack}", 2, 0, 0},
		{"the other family, too", "{ipFamilyPolicy: RequireDualStack, clusterIPs: ['fd00::9']}", 2, 0, 0},
		{"node ports", "{type: NodePort, ports: [{port: 80}, {port: 81}]}", 1, 2, 0},
		{"one for two protocols", "{type: NodePort, ports: [{port: 80}, {port: 80, protocol: UDP}]}", 1, 1, 0},
		{"health checks", "{type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]}", 1, 1, 1},
		{"health checks alone", "{type: LoadBalancer, externalTrafficPolicy: Local, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}", 1, 0, 1},
	} {
		for _, dry := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, dry), func(t *testing.T) {
				f := start(t, "10.0.0.0/24", "fd00::/120")
				s := f.service("s", tt.spec)
				if _, err := f.Complete(t.Context(), attributes(s, nil, dry)); err != nil {
					t.Fatal(err)
				}
				ips, ports := addressesOf(s), distinct(nodePortsOf(s))
				if len(ips) != tt.ips || s.Spec.ClusterIP != ips[0].String() || len(ports) != tt.ports || (s.Spec.HealthCheckNodePort != 0) != (tt.check > 0) {
					t.Errorf("got %s, ClusterIP %s", has(s), s.Spec.ClusterIP)
				}
				held, all := len(f.mu.addresses.by)+len(f.mu.ports.by), tt.ips+tt.ports+tt.check
				if dry {
					all = 0
				}
				if held != all {
					t.Errorf("%d are reserved, want %d", held, all)
				}
			})
		}
	}
}

func distinct(ports []int32) []int32 {
	slices.Sort(ports)
	return slices.Compact(ports)
}

// TestExhaustion gives away all addresses of a range, those at its start last.
func TestExhaustion(t *testing.T) {
	for cidr, want := range map[string]struct {
		all, reserved int
		last          string
	}{
		"10.0.0.0/20": {4094, 256, "10.0.15.254"},
		"10.0.0.0/24": {254, 16, "10.0.0.254"},
		"10.0.0.0/28": {14, 0, "10.0.0.14"},
		"10.0.0.0/30": {2, 0, "10.0.0.2"},
		"10.0.0.0/31": {0, 0, ""},
		"10.0.0.0/32": {0, 0, ""},
		"fd00::/120":  {255, 16, "fd00::ff"},
		"fd00::/126":  {3, 0, "fd00::3"},
		"fd00::/128":  {0, 0, ""},
	} {
		t.Run(cidr, func(t *testing.T) {
			f := start(t, cidr)
			r := f.base[0]
			var given []netip.Addr
			var last *corev1.Service
			for i := range want.all {
				s := f.stored(fmt.Sprint(i), "{}")
				given = append(given, addressesOf(s)...)
				if s.Spec.ClusterIP == want.last {
					last = s
				}
			}
			if _, err := f.write(f.service("late", "{}"), nil); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "address is left in the Service ranges") {
				t.Fatalf("one more: %v", err)
			}
			for i, ip := range given {
				if early := i < want.all-want.reserved; !holds(r, ip) || early != offset(r.Addr(), uint64(want.reserved)).Less(ip) {
					t.Fatalf("address %d of %d is %s", i, len(given), ip)
				}
			}
			slices.SortFunc(given, netip.Addr.Compare)
			if n := len(slices.Compact(given)); n != want.all || n > 0 && (given[0] != r.Addr().Next() || given[n-1].String() != want.last) {
				t.Fatalf("%d different addresses, %v", n, given)
			}
			if last != nil {
				f.replaceService(last, nil)
				if s := f.stored("next", "{}"); has(s) != want.last {
					t.Errorf("after %s was free: %s", want.last, has(s))
				}
			}
		})
	}
}

// TestPortsRunOut gives away all node ports, the first ones last.
func TestPortsRunOut(t *testing.T) {
	f := start(t, "10.0.0.0/16")
	var given []int32
	for i := range allNodePorts {
		given = append(given, portsOf(f.stored(fmt.Sprint(i), "{type: NodePort, ports: [{port: 80}]}"))...)
	}
	for i, p := range given {
		if early := i < allNodePorts-reservedNodePorts; early != (p >= firstNodePort+reservedNodePorts) {
			t.Fatalf("port %d is %d", i, p)
		}
	}
	if n := len(distinct(given)); n != allNodePorts {
		t.Errorf("%d different ports", n)
	}
	for spec, want := range map[string]string{
		"{type: NodePort, ports: [{port: 80}]}": "Internal error occurred: failed to allocate a nodePort: no port is left in 30000-32767",
		"{type: LoadBalancer, externalTrafficPolicy: Local, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}": "Internal error occurred: failed to allocate a HealthCheck NodePort: no port is left in 30000-32767",
	} {
		before := len(f.mu.addresses.by)
		if _, err := f.write(f.service("late", spec), nil); err == nil || err.Error() != want {
			t.Errorf("%v", err)
		}
		if after := len(f.mu.addresses.by); after != before {
			t.Errorf("the refused Service keeps its address")
		}
	}
}

// TestRelease says when an address and a port that s asked for are free for
// others.
func TestRelease(t *testing.T) {
	const spec = "{type: NodePort, clusterIPs: [10.0.0.9], ports: [{port: 80, nodePort: 30001}]}"
	for _, tt := range []struct {
		name string
		act  func(f *fixture, s *corev1.Service, undo func())
		free bool
	}{
		{"on its way", func(*fixture, *corev1.Service, func()) {}, false},
		{"refused", func(_ *fixture, _ *corev1.Service, undo func()) { undo() }, true},
		{"stored", func(f *fixture, s *corev1.Service, _ func()) { f.replaceService(nil, s) }, false},
		{"stored, then undone", func(f *fixture, s *corev1.Service, undo func()) { f.replaceService(nil, s); undo() }, false},
		{"not heard of", func(f *fixture, _ *corev1.Service, _ func()) { f.clock.SetTime(f.clock.Now().Add(pending + 1)) }, true},
		{"not heard of yet", func(f *fixture, _ *corev1.Service, _ func()) { f.clock.SetTime(f.clock.Now().Add(pending)) }, false},
		{"stored long ago", func(f *fixture, s *corev1.Service, _ func()) {
			f.replaceService(nil, s)
			f.clock.SetTime(f.clock.Now().Add(time.Hour))
		}, false},
		{"stored without a UID", func(f *fixture, s *corev1.Service, undo func()) { undo(); s.UID = ""; f.replaceService(nil, s) }, false},
		{"removed", func(f *fixture, s *corev1.Service, _ func()) { f.replaceService(nil, s); f.replaceService(s, nil) }, true},
		{"given up", func(f *fixture, s *corev1.Service, _ func()) {
			f.replaceService(nil, s)
			f.replaceService(s, f.service("s", "{type: ExternalName}"))
		}, true},
		{"another of its writes goes on", func(f *fixture, _ *corev1.Service, undo func()) { f.must(f.service("s", spec), nil); undo() }, false},
		{"all of its writes are refused", func(f *fixture, _ *corev1.Service, undo func()) {
			undoOther := f.must(f.service("s", spec), nil)
			undo()
			undoOther()
		}, true},
		{"refused after another took it", func(f *fixture, _ *corev1.Service, undo func()) {
			f.clock.SetTime(f.clock.Now().Add(pending + 1))
			f.must(f.service("faster", spec), nil)
			undo()
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, "10.0.0.0/24")
			s := f.service("s", spec)
			tt.act(f, s, f.must(s, nil))
			for _, asked := range []string{"{clusterIPs: [10.0.0.9]}", "{type: NodePort, ports: [{port: 80, nodePort: 30001}]}"} {
				if _, err := f.write(f.service("other", asked), nil); (err == nil) != tt.free {
					t.Errorf("%s: %v", asked, err)
				}
			}
		})
	}
}

// TestConcurrency has many writes at once: none gets what another has.
func TestConcurrency(t *testing.T) {
	const writers = 60
	for name, tt := range map[string]struct {
		spec string
		wins int
	}{
		"any":          {"{type: NodePort, ports: [{port: 80}, {port: 81}]}", 30},
		"same address": {"{clusterIPs: [10.0.0.9]}", 1},
		"same port":    {"{type: NodePort, ports: [{port: 80, nodePort: 30001}]}", 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, "10.0.0.0/27")
			services := make([]*corev1.Service, writers)
			var wins sync.Map
			var all sync.WaitGroup
			for i := range services {
				services[i] = f.service(fmt.Sprint(i), tt.spec)
				all.Go(func() {
					if _, err := f.write(services[i], nil); err == nil {
						f.replaceService(nil, services[i])
						wins.Store(i, true)
					}
				})
			}
			all.Wait()
			var ips []netip.Addr
			var ports []int32
			n := 0
			wins.Range(func(i, _ any) bool {
				ips, ports = append(ips, addressesOf(services[i.(int)])...), append(ports, portsOf(services[i.(int)])...)
				n++
				return true
			})
			slices.SortFunc(ips, netip.Addr.Compare)
			if n != tt.wins || len(slices.Compact(slices.Clone(ips))) != len(ips) || len(distinct(slices.Clone(ports))) != len(ports) {
				t.Errorf("%d Services have %v and %v", n, ips, ports)
			}
			if len(f.mu.addresses.by) != len(ips) || len(f.mu.ports.by) != len(ports) {
				t.Errorf("%d addresses and %d ports are held, by %d Services", len(f.mu.addresses.by), len(f.mu.ports.by), n)
			}
		})
	}
}

// TestRanges has ServiceCIDRs that come and go, and the ranges in force after
// each step.
func TestRanges(t *testing.T) {
	f := start(t, "10.0.0.0/30")
	cidr := func(name string, ready metav1.ConditionStatus, ranges ...string) *networkingv1.ServiceCIDR {
		c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges}}
		c.Status.Conditions = []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: ready}}
		return c
	}
	base := cidr("kubernetes", metav1.ConditionTrue, "10.0.0.0/30")
	unready := cidr("a", metav1.ConditionFalse, "10.1.0.0/30", "fd00::/126")
	ready := cidr("a", metav1.ConditionTrue, "10.1.0.0/30", "fd00::/126")
	same := cidr("b", metav1.ConditionTrue, "10.1.0.0/30")
	ending := ready.DeepCopy()
	ending.DeletionTimestamp = &metav1.Time{Time: f.clock.Now()}
	for i, step := range []struct {
		old, now *networkingv1.ServiceCIDR
		want     string
	}{
		{nil, base, "[10.0.0.0/30]"},
		{nil, unready, "[10.0.0.0/30]"},
		{unready, ready, "[10.0.0.0/30 10.1.0.0/30 fd00::/126]"},
		{nil, same, "[10.0.0.0/30 10.1.0.0/30 fd00::/126]"},
		{ready, ending, "[10.0.0.0/30 10.1.0.0/30]"},
		{ending, nil, "[10.0.0.0/30 10.1.0.0/30]"},
		{same, nil, "[10.0.0.0/30]"},
		{base, nil, "[10.0.0.0/30]"},
	} {
		f.replaceRange(step.old, step.now)
		if got := fmt.Sprint(f.mu.ranges); got != step.want {
			t.Fatalf("step %d: %s, want %s", i, got, step.want)
		}
	}

	// A new range has addresses where the first has none; those who have some
	// keep them when it goes.
	f.stored("1", "{}")
	f.stored("2", "{}")
	dual := f.service("dual", "{ipFamilyPolicy: RequireDualStack}")
	if _, err := f.write(dual, nil); !apierrors.IsInvalid(err) {
		t.Errorf("dual-stack without a second family: %v", err)
	}
	f.replaceRange(nil, ready)
	f.must(dual, nil)
	f.replaceService(nil, dual)
	if ips := addressesOf(dual); len(ips) != 2 || !holds(netip.MustParsePrefix("10.1.0.0/30"), ips[0]) || !holds(netip.MustParsePrefix("fd00::/126"), ips[1]) {
		t.Errorf("from the new ranges: %v", ips)
	}
	f.replaceRange(ready, nil)
	for _, ip := range addressesOf(dual) {
		if c := f.mu.addresses.on(ip); c == nil || c.owner != dual.UID {
			t.Errorf("%s is not its owner's any more after its range is gone", ip)
		}
	}
	if _, err := f.write(f.service("late", "{}"), nil); !apierrors.IsInternalError(err) {
		t.Errorf("after the range is gone: %v", err)
	}
}

// TestForeign keeps the addresses of IPAddresses that belong to something else
// than Services.
func TestForeign(t *testing.T) {
	f := start(t, "10.0.0.0/24")
	foreign := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.0.0.9", UID: "a"}, Spec: networkingv1.IPAddressSpec{
		ParentRef: &networkingv1.ParentReference{Group: "gateway.networking.k8s.io", Resource: "gateways", Name: "g"},
	}}
	ask := func() error {
		undo, err := f.write(f.service("s", "{clusterIPs: [10.0.0.9]}"), nil)
		if err == nil {
			undo()
		}
		return err
	}
	f.replaceAddress(nil, foreign)
	if err := ask(); !apierrors.IsInvalid(err) {
		t.Errorf("a gateway's address: %v", err)
	}
	services := foreign.DeepCopy()
	services.Spec.ParentRef = &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "gone"}
	f.replaceAddress(foreign, services)
	if err := ask(); err != nil {
		t.Error(err)
	}
	f.replaceAddress(services, foreign)
	f.replaceAddress(foreign, nil)
	if err := ask(); err != nil {
		t.Error(err)
	}
}

// stock is what a reader finds.
type stock []client.Object

func (s stock) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	for _, o := range s {
		if client.ObjectKeyFromObject(o) == key {
			switch have := o.(type) {
			case *corev1.Service:
				if into, ok := obj.(*corev1.Service); ok {
					have.DeepCopyInto(into)
					return nil
				}
			case *networkingv1.IPAddress:
				if into, ok := obj.(*networkingv1.IPAddress); ok {
					have.DeepCopyInto(into)
					return nil
				}
			}
		}
	}
	return apierrors.NewNotFound(networkingv1.Resource("ipaddresses"), key.Name)
}

func (stock) List(context.Context, client.ObjectList, ...client.ListOption) error {
	panic("nothing is listed")
}

// TestAccount has what the API holds of an address that a Service was given, and
// what is stored with the Service.
func TestAccount(t *testing.T) {
	f := start(t, "10.0.0.0/24")
	address := func(group, resource, name string) *networkingv1.IPAddress {
		a := addressOf(netip.MustParseAddr("10.0.0.9"), f.service(name, "{}"))
		a.ResourceVersion, a.Labels = "7", nil
		a.Spec.ParentRef.Group, a.Spec.ParentRef.Resource = group, resource
		return a
	}
	for _, tt := range []struct {
		name    string
		have    stock
		old     string
		version string // of the IPAddress to store, "-" if there is none
		err     string
	}{
		{"none", nil, "", "", ""},
		{"its own", stock{address("", "services", "s")}, "", "-", ""},
		{"left over", stock{address("", "services", "gone")}, "", "7", ""},
		{"left over from one that has another", stock{address("", "services", "other"), f.service("other", "{clusterIPs: [10.0.0.8]}")}, "", "7", ""},
		{"another's", stock{address("", "services", "other"), f.service("other", "{clusterIPs: [10.0.0.9]}")}, "", "",
			`Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.0.0.9"]: failed to allocate IP 10.0.0.9: provided IP is already allocated`},
		{"a gateway's", stock{address("example.com", "gateways", "g")}, "", "",
			`Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.0.0.9"]: failed to allocate IP 10.0.0.9: provided IP is already allocated`},
		{"had before", nil, "{clusterIPs: [10.0.0.9]}", "-", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.reader = tt.have
			var old *corev1.Service
			if tt.old != "" {
				old = f.service("s", tt.old)
			}
			entries, done, err := f.Account(t.Context(), attributes(f.service("s", "{clusterIPs: [10.0.0.9]}"), old, false))
			if tt.err != "" || err != nil {
				if err == nil || err.Error() != tt.err {
					t.Errorf("got  %v\nwant %s", err, tt.err)
				}
				return
			}
			done()
			if tt.version == "-" {
				if len(entries) != 0 {
					t.Errorf("stores %v", entries[0].Object)
				}
				return
			}
			if len(entries) != 1 {
				t.Fatalf("stores %d objects", len(entries))
			}
			a := entries[0].Object.(*networkingv1.IPAddress)
			if a.Name != "10.0.0.9" || a.ResourceVersion != tt.version || a.Labels[networkingv1.LabelManagedBy] != managedBy ||
				a.Labels[networkingv1.LabelIPAddressFamily] != "IPv4" || *a.Spec.ParentRef != (networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "s"}) {
				t.Errorf("stores %v", a)
			}
		})
	}
}
