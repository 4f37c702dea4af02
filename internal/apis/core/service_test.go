package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// aService returns a valid service, changed, defaulted and with an address.
func aService(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "ns"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}, ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"}},
	}
	for _, f := range change {
		f(s)
	}
	defaultService(s)
	return s
}

func ofType(kind corev1.ServiceType) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Type = kind }
}

func external(s *corev1.Service) {
	s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
}

func TestServiceDefaults(t *testing.T) {
	s := aService(ofType(corev1.ServiceTypeLoadBalancer), func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
	for what, ok := range map[string]bool{
		"protocol":   s.Spec.Ports[0].Protocol == corev1.ProtocolTCP,
		"targetPort": s.Spec.Ports[0].TargetPort == intstr.FromInt32(80),
		"affinity":   *s.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds == 10800,
		"external":   s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyCluster,
		"internal":   *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyCluster,
		"node ports": *s.Spec.AllocateLoadBalancerNodePorts,
	} {
		if !ok {
			t.Errorf("%s is not defaulted: %+v", what, s.Spec)
		}
	}
	plain := aService()
	if plain.Spec.Type != corev1.ServiceTypeClusterIP || plain.Spec.SessionAffinity != corev1.ServiceAffinityNone || plain.Spec.ExternalTrafficPolicy != "" {
		t.Errorf("defaults of a plain service: %+v", plain.Spec)
	}
}

func TestValidateService(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Service)
		want   []string
	}{
		"good":          {func(*corev1.Service) {}, nil},
		"external name": {external, nil},
		"no ports":      {func(s *corev1.Service) { s.Spec.Ports = nil }, []string{"spec.ports: Required value"}},
		"headless without ports": {func(s *corev1.Service) {
			s.Spec.Ports, s.Spec.ClusterIP, s.Spec.ClusterIPs = nil, "None", []string{"None"}
		}, nil},
		"unnamed ports": {func(s *corev1.Service) { s.Spec.Ports = []corev1.ServicePort{{Port: 80, Name: "a"}, {Port: 81}} }, []string{"spec.ports[1].name: Required value"}},
		"same port": {func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{{Port: 80, Name: "a"}, {Port: 80, Name: "a"}}
		}, []string{`spec.ports[1].name: Duplicate value: "a"`, `spec.ports[1]: Duplicate value: {"protocol":"TCP","port":80,"targetPort":0}`}},
		"port": {func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{{Port: 0, TargetPort: intstr.FromString("not a port"), Protocol: "X"}}
		}, []string{
			"spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
			`spec.ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"`,
			`spec.ports[0].targetPort: Invalid value: "not a port": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`,
		}},
		"node port of ClusterIP": {func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30000 }, []string{"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"}},
		"headless node port": {func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs = "NodePort", "None", []string{"None"}
		}, []string{`spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services`}},
		"type":     {ofType("X"), []string{`spec.type: Unsupported value: "X": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`}},
		"affinity": {func(s *corev1.Service) { s.Spec.SessionAffinity = "X" }, []string{`spec.sessionAffinity: Unsupported value: "X": supported values: "ClientIP", "None"`}},
		"affinity timeout": {func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](86401)}}
		}, []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400"}},
		"cluster IPs differ": {func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.11"} }, []string{"spec.clusterIPs: Invalid value: [\"10.96.0.11\"]: first value must match `clusterIP`"}},
		"cluster IP": {func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "x", []string{"x"} },
			[]string{`spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`}},
		"families": {func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{"IPv6", "IPv6"} }, []string{
			`spec.ipFamilies[1]: Duplicate value: "IPv6"`,
			"spec.clusterIPs[0]: Invalid value: \"10.96.0.10\": expected an IPv6 value as indicated by `ipFamilies[0]`",
		}},
		"external IP": {func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"127.0.0.1"} },
			[]string{`spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		"source ranges": {func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"x"} }, []string{
			"spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
			`spec.LoadBalancerSourceRanges[0]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`,
		}},
		"local without port": {func(s *corev1.Service) { s.Spec.Type, s.Spec.ExternalTrafficPolicy = "LoadBalancer", "Local" }, []string{"spec.healthCheckNodePort: Required value"}},
		"external policy": {func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = "Local" },
			[]string{`spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services`}},
		"external name with address": {func(s *corev1.Service) {
			external(s)
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.0.0.1", []string{"10.0.0.1"}
		},
			[]string{"spec.clusterIPs: Forbidden: may not be set for ExternalName services"}},
		"selector": {func(s *corev1.Service) { s.Spec.Selector = map[string]string{"a": "b c"} }, []string{
			`spec.selector: Invalid value: "b c": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`,
		}},
		"distribution": {func(s *corev1.Service) { s.Spec.TrafficDistribution = ptr.To("X") },
			[]string{`spec.trafficDistribution: Unsupported value: "X": supported values: "PreferClose", "PreferSameZone", "PreferSameNode"`}},
	} {
		t.Run(name, func(t *testing.T) { check(t, validateService(aService(c.change), nil), c.want...) })
	}
}

func TestServiceUpdate(t *testing.T) {
	nodePort := func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort; s.Spec.Ports[0].NodePort = 30001 }
	for name, c := range map[string]struct {
		old, change func(*corev1.Service)
		want        []string
		see         func(*corev1.Service) bool
	}{
		"address left out": {nil, func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil }, nil,
			func(s *corev1.Service) bool { return s.Spec.ClusterIP == "10.96.0.10" && len(s.Spec.ClusterIPs) == 1 }},
		"address changed": {nil, func(s *corev1.Service) { s.Spec.ClusterIP = "10.96.0.11" },
			[]string{`spec.clusterIPs[0]: Invalid value: ["10.96.0.11"]: may not change once set`}, nil},
		"node port left out": {nodePort, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 0 }, nil,
			func(s *corev1.Service) bool { return s.Spec.Ports[0].NodePort == 30001 }},
		"port of another number": {nodePort, func(s *corev1.Service) { s.Spec.Ports[0].Port, s.Spec.Ports[0].NodePort = 81, 0 }, nil,
			func(s *corev1.Service) bool { return s.Spec.Ports[0].NodePort == 30001 }},
		"port of another name": {nodePort, func(s *corev1.Service) { s.Spec.Ports[0].Name, s.Spec.Ports[0].NodePort = "b", 0 }, nil,
			func(s *corev1.Service) bool { return s.Spec.Ports[0].NodePort == 0 }},
		"node ports not allocated": {func(s *corev1.Service) { nodePort(s); s.Spec.Type = corev1.ServiceTypeLoadBalancer },
			func(s *corev1.Service) { s.Spec.AllocateLoadBalancerNodePorts = ptr.To(false) }, nil,
			func(s *corev1.Service) bool { return s.Spec.Ports[0].NodePort == 30001 }},
		"to an unknown type": {nil, ofType("X"), []string{`spec.type: Unsupported value: "X": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`},
			func(s *corev1.Service) bool { return s.Spec.ClusterIP == "10.96.0.10" }},
		"class of another type": {nil, func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("x") }, []string{
			"spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
			"spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
		}, nil},
		"policy of a name": {external, func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		}, nil,
			func(s *corev1.Service) bool { return s.Spec.InternalTrafficPolicy == nil }},
		"to ClusterIP": {nodePort, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }, nil,
			func(s *corev1.Service) bool {
				return s.Spec.Ports[0].NodePort == 0 && s.Spec.ExternalTrafficPolicy == ""
			}},
		"to ExternalName": {nil, func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		}, nil,
			func(s *corev1.Service) bool { return s.Spec.ClusterIP == "" && s.Spec.ClusterIPs == nil }},
		"from ExternalName": {external, func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}, ClusterIP: "10.96.0.12", ClusterIPs: []string{"10.96.0.12"}}
		}, nil, nil},
		"secondary added": {nil, func(s *corev1.Service) {
			s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00::1")
			s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
		}, nil, nil},
		"secondary released": {func(s *corev1.Service) { s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00::1") }, func(s *corev1.Service) { s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1] },
			[]string{"spec.ipFamilyPolicy: Invalid value: null: must be set to 'SingleStack' when releasing the secondary clusterIP"}, nil},
		"class changed": {func(s *corev1.Service) { s.Spec.Type, s.Spec.LoadBalancerClass = "LoadBalancer", ptr.To("a.b/c") }, func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("a.b/d") },
			[]string{`spec.loadBalancerClass: Invalid value: "a.b/d": may not change once set`}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if c.old == nil {
				c.old = func(*corev1.Service) {}
			}
			old := aService(c.old)
			s := old.DeepCopy()
			c.change(s)
			defaultService(s)
			prepareServiceUpdate(t.Context(), s, old)
			check(t, validateServiceUpdate(t.Context(), s, old), c.want...)
			if c.see != nil && !c.see(s) {
				t.Errorf("the service became %+v", s.Spec)
			}
		})
	}
}

func TestServiceFamilies(t *testing.T) {
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	single, prefer, require := corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack
	noIP := func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil }
	for name, c := range map[string]struct {
		change  func(*corev1.Service)
		cluster []corev1.IPFamily
		policy  corev1.IPFamilyPolicy
		want    []corev1.IPFamily
		errors  []string
	}{
		"plain":       {noIP, []corev1.IPFamily{v4, v6}, single, []corev1.IPFamily{v4}, nil},
		"by address":  {func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "fd00::1", []string{"fd00::1"} }, []corev1.IPFamily{v4, v6}, single, []corev1.IPFamily{v6}, nil},
		"prefer":      {func(s *corev1.Service) { noIP(s); s.Spec.IPFamilyPolicy = &prefer }, []corev1.IPFamily{v6, v4}, prefer, []corev1.IPFamily{v6, v4}, nil},
		"prefer one":  {func(s *corev1.Service) { noIP(s); s.Spec.IPFamilyPolicy = &prefer }, []corev1.IPFamily{v4}, prefer, []corev1.IPFamily{v4}, nil},
		"require one": {func(s *corev1.Service) { noIP(s); s.Spec.IPFamilyPolicy = &require }, []corev1.IPFamily{v4}, require, nil, []string{`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`}},
		"other one":   {func(s *corev1.Service) { noIP(s); s.Spec.IPFamilies = []corev1.IPFamily{v6} }, []corev1.IPFamily{v4}, single, []corev1.IPFamily{v6}, []string{`spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`}},
		"address of another": {func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "aaaa::1", []string{"aaaa::1"} }, []corev1.IPFamily{v4}, single, nil,
			[]string{`spec.clusterIPs[0]: Invalid value: ["aaaa::1"]: IPv6 is not configured on this cluster`}},
		"address left out": {func(s *corev1.Service) { s.Spec.ClusterIP = "" }, []corev1.IPFamily{v4}, single, nil,
			[]string{"spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: must be empty when `clusterIP` is not specified"}},
		"empty address": {func(s *corev1.Service) { s.Spec.ClusterIPs = []string{""} }, []corev1.IPFamily{v4}, single, nil,
			[]string{"spec.clusterIPs: Invalid value: [\"\"]: first value must match `clusterIP`", `spec.clusterIPs[0]: Invalid value: "": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`}},
		"unknown family": {func(s *corev1.Service) { noIP(s); s.Spec.IPFamilies = []corev1.IPFamily{"x"} }, []corev1.IPFamily{v4}, single, []corev1.IPFamily{"x"},
			[]string{`spec.ipFamilies[0]: Unsupported value: "x": supported values: "IPv4", "IPv6"`}},
		"same family twice": {func(s *corev1.Service) { noIP(s); s.Spec.IPFamilies = []corev1.IPFamily{v4, v4} }, []corev1.IPFamily{v4}, single, []corev1.IPFamily{v4, v4},
			[]string{`spec.ipFamilies[1]: Duplicate value: "IPv4"`}},
		"single with two": {func(s *corev1.Service) {
			s.Spec.IPFamilyPolicy, s.Spec.ClusterIPs, s.Spec.IPFamilies = &single, []string{"10.96.0.10", "fd00::1"}, []corev1.IPFamily{v4, v6}
		}, []corev1.IPFamily{v4, v6}, single, []corev1.IPFamily{v4, v6}, []string{
			`spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified`,
			`spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified`,
		}},
		"headless": {func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} }, []corev1.IPFamily{v4}, require, []corev1.IPFamily{v4, v6}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := aService(c.change)
			check(t, DefaultServiceFamilies(s, nil, c.cluster), c.errors...)
			if *s.Spec.IPFamilyPolicy != c.policy || len(s.Spec.IPFamilies) != len(c.want) {
				t.Fatalf("%s %v, want %s %v", *s.Spec.IPFamilyPolicy, s.Spec.IPFamilies, c.policy, c.want)
			}
			for i := range c.want {
				if s.Spec.IPFamilies[i] != c.want[i] {
					t.Errorf("families %v, want %v", s.Spec.IPFamilies, c.want)
				}
			}
		})
	}
	old := aService(func(s *corev1.Service) {
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00::1")
		s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = []corev1.IPFamily{v4, v6}, &require
	})
	s := old.DeepCopy()
	s.Spec.IPFamilyPolicy = &single
	check(t, DefaultServiceFamilies(s, old, []corev1.IPFamily{v4, v6}))
	if len(s.Spec.ClusterIPs) != 1 || len(s.Spec.IPFamilies) != 1 {
		t.Errorf("a service made single-stack keeps %v %v", s.Spec.ClusterIPs, s.Spec.IPFamilies)
	}
	check(t, validateServiceUpdate(t.Context(), s, old))
}

func TestServiceCells(t *testing.T) {
	r := services()
	for name, c := range map[string]struct {
		change   func(*corev1.Service)
		external string
		ports    string
	}{
		"plain":   {func(*corev1.Service) {}, "<none>", "80/TCP"},
		"node":    {func(s *corev1.Service) { s.Spec.Type = "NodePort"; s.Spec.Ports[0].NodePort = 30001 }, "<none>", "80:30001/TCP"},
		"pending": {ofType("LoadBalancer"), "<pending>", "80/TCP"},
		"balanced": {func(s *corev1.Service) {
			s.Spec.Type = "LoadBalancer"
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "1.2.3.4"}, {Hostname: "lb"}}
		}, "1.2.3.4,lb", "80/TCP"},
		"name": {external, "example.com", "<none>"},
	} {
		cells := r.Cells(aService(c.change))
		if cells[3] != c.external || cells[4] != c.ports {
			t.Errorf("%s: %v %v, want %s %s", name, cells[3], cells[4], c.external, c.ports)
		}
	}
}
