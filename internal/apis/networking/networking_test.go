package networking

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

const notDomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"

func TestIngress(t *testing.T) {
	type ing = networkingv1.Ingress
	change := checkstest.Change[*ing]
	r := checkstest.Find(t, Resources(), "ingresses")
	valid := checkstest.Parse[*ing](t, r, `
metadata: {name: web, namespace: default}
spec:
  ingressClassName: nginx
  tls: [{hosts: [a.example.com], secretName: cert}]
  rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
`)
	first := func(i *ing) *networkingv1.HTTPIngressPath { return &i.Spec.Rules[0].HTTP.Paths[0] }
	checkstest.Create(t, r, valid,
		change("nothing", func(i *ing) { i.Spec.Rules = nil }, "spec: Invalid value: either `defaultBackend` or `rules` must be specified"),
		change("address", func(i *ing) { i.Spec.Rules[0].Host = "1.2.3.4" }, "spec.rules[0].host: Invalid value: must be a DNS name, not an IP address"),
		change("no type", func(i *ing) { first(i).PathType = nil }, "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"),
		change("relative", func(i *ing) { first(i).Path = "a" }, "spec.rules[0].http.paths[0].path: Invalid value: must be an absolute path"),
		change("dots", func(i *ing) { first(i).Path = "/a/.." }, "spec.rules[0].http.paths[0].path: Invalid value: cannot end with '/..'"),
		change("no backend", func(i *ing) { first(i).Backend.Service = nil }, "spec.rules[0].http.paths[0].backend: Invalid value: resource or service backend is required"),
		change("no port", func(i *ing) { first(i).Backend.Service.Port.Number = 0 }, "spec.rules[0].http.paths[0].backend: Required value: port name or number is required"),
		change("no port in the default", func(i *ing) {
			i.Spec.DefaultBackend = &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Name: "web", Number: 80}}}
		}, "spec.defaultBackend: Invalid value: cannot set both port name & port number"),
		change("resource", func(i *ing) {
			first(i).Backend = networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{APIGroup: ptr.To("a_b")}}
		}, "spec.rules[0].http.paths[0].backend.resource.apiGroup: Invalid value: "+notDomain,
			"spec.rules[0].http.paths[0].backend.resource.kind: Required value: ",
			"spec.rules[0].http.paths[0].backend.resource.name: Required value: "),
		change("type", func(i *ing) { first(i).PathType = ptr.To(networkingv1.PathType("Glob")) },
			`spec.rules[0].http.paths[0].pathType: Unsupported value: supported values: "Exact", "ImplementationSpecific", "Prefix"`),
		change("address with zeros", func(i *ing) { i.Spec.Rules[0].Host = "01.2.3.4" }, "spec.rules[0].host: Invalid value: must be a DNS name, not an IP address"),
		change("paths", func(i *ing) { i.Spec.Rules[0].HTTP.Paths = nil }, "spec.rules[0].http.paths: Required value: "),
		change("secret", func(i *ing) { i.Spec.TLS[0].SecretName = "_" }, "spec.tls[0].secretName: Invalid value: "+notDomain),
		change("other class", func(i *ing) { i.Annotations = map[string]string{classAnnotation: "traefik"} },
			"annotations.kubernetes.io/ingress.class: Invalid value: must match `ingressClassName` when both are specified"),
	)
	old := valid.DeepCopy()
	old.Spec.TLS[0].SecretName = "_"
	old.Spec.Rules[0] = networkingv1.IngressRule{Host: "*.example.com", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{}}}
	checkstest.Update(t, r, old,
		change("as before", func(i *ing) { i.Labels = map[string]string{"a": "b"} }),
		change("other rule", func(i *ing) { i.Spec.Rules[0].Host = "a.example.com" }, "spec.rules[0].http.paths: Required value: "),
	)
	old.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "010.0.0.1"}}
	checkstest.UpdateStatus(t, r, old,
		change("as before", func(i *ing) { i.Status.LoadBalancer.Ingress[0].Hostname = "a" }),
		change("address", func(i *ing) { i.Status.LoadBalancer.Ingress[0].IP = "010.0.0.2" }, "status.loadBalancer.ingress[0].ip: Invalid value: must not have leading 0s"),
		change("host", func(i *ing) { i.Status.LoadBalancer.Ingress[0].Hostname = "1.2.3.4" },
			"status.loadBalancer.ingress[0].hostname: Invalid value: must be a DNS name, not an IP address"),
	)
	old.Annotations = map[string]string{classAnnotation: "nginx"}
	for class, want := range map[*string]int{nil: 1, ptr.To("nginx"): 0} {
		old.Spec.IngressClassName = class
		if got := r.Warnings(t.Context(), old, nil); len(got) != want {
			t.Errorf("warned of %q", got)
		}
		if got := r.Warnings(t.Context(), old, old); len(got) != 0 {
			t.Errorf("an update warned of %q", got)
		}
	}
	if got := r.Cells(old); got[1] != "nginx" || got[2] != "*.example.com" || got[3] != "010.0.0.1" {
		t.Errorf("shown as %v", got)
	}
	old.Spec = networkingv1.IngressSpec{Rules: make([]networkingv1.IngressRule, 1)}
	if got := r.Cells(old); got[1] != "nginx" || got[2] != "*" || got[4] != "80" {
		t.Errorf("shown as %v", got)
	}
	for _, h := range []string{"a", "b", "c", "", "d"} {
		old.Spec.Rules = append(old.Spec.Rules, networkingv1.IngressRule{Host: h})
	}
	if got := r.Cells(old)[2]; got != "a,b,c + 3 more..." {
		t.Errorf("hosts shown as %v", got)
	}
	old.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{Hostname: "z"}, {IP: "10.0.0.2", Hostname: "y"}, {}, {IP: "10.0.0.1"}, {Hostname: "z"}}
	if got := r.Cells(old)[3]; got != "10.0.0.1,10.0.0.2,z" {
		t.Errorf("addresses shown as %v", got)
	}
	if got := r.Cells(valid); got[1] != "nginx" || got[2] != "a.example.com" || got[4] != "80, 443" {
		t.Errorf("shown as %v", got)
	}
}

func TestIngressClass(t *testing.T) {
	change := checkstest.Change[*networkingv1.IngressClass]
	r := checkstest.Find(t, Resources(), "ingressclasses")
	valid := checkstest.Parse[*networkingv1.IngressClass](t, r, "metadata: {name: x}\nspec: {controller: example.com/ctl, parameters: {kind: P, name: p}}")
	checkstest.Create(t, r, valid,
		change("namespace", func(c *networkingv1.IngressClass) { c.Spec.Parameters.Namespace = ptr.To("a") },
			"spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"),
		change("no namespace", func(c *networkingv1.IngressClass) { c.Spec.Parameters.Scope = ptr.To("Namespace") },
			"spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"),
	)
	parameters := func(change func(p *networkingv1.IngressClassParametersReference)) func(*networkingv1.IngressClass) {
		return func(c *networkingv1.IngressClass) { change(c.Spec.Parameters) }
	}
	checkstest.Create(t, r, valid,
		change("empty namespace", parameters(func(p *networkingv1.IngressClassParametersReference) {
			p.Scope, p.Namespace = ptr.To("Namespace"), ptr.To("")
		}),
			"spec.parameters.namespace: Invalid value: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"),
		change("scope", parameters(func(p *networkingv1.IngressClassParametersReference) { p.Scope = ptr.To("") }),
			`spec.parameters.scope: Unsupported value: supported values: "Cluster", "Namespace"`),
		change("kind", parameters(func(p *networkingv1.IngressClassParametersReference) { p.Kind, p.Name = "", "a/b" }),
			"spec.parameters.kind: Required value: ", "spec.parameters.name: Invalid value: may not contain '/'"),
		change("no controller", func(c *networkingv1.IngressClass) { c.Spec.Controller = "" }, "spec.controller: Required value: "),
		change("long controller", func(c *networkingv1.IngressClass) { c.Spec.Controller = "a.b/" + strings.Repeat("c", 247) },
			"spec.controller: Too long: may not be more than 250 bytes"),
	)
	if got := r.Cells(valid)[2]; got != "P/p" {
		t.Errorf("parameters shown as %v", got)
	}
	valid.Spec.Parameters.APIGroup = ptr.To("example.com")
	if got := r.Cells(valid)[2]; got != "P.example.com/p" {
		t.Errorf("parameters shown as %v", got)
	}
	checkstest.Update(t, r, valid,
		change("controller", func(c *networkingv1.IngressClass) { c.Spec.Controller = "example.com/b" }, "spec.controller: Invalid value: field is immutable"),
	)
}

func TestNetworkPolicy(t *testing.T) {
	type policy = networkingv1.NetworkPolicy
	change := checkstest.Change[*policy]
	r := checkstest.Find(t, Resources(), "networkpolicies")
	valid := checkstest.Parse[*policy](t, r, `
metadata: {name: web, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{port: 80}], from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]
  egress: [{to: [{namespaceSelector: {}}]}]
`)
	if types := valid.Spec.PolicyTypes; len(types) != 2 || *valid.Spec.Ingress[0].Ports[0].Protocol != "TCP" {
		t.Errorf("wrong defaults: %+v", valid.Spec)
	}
	checkstest.Create(t, r, valid,
		change("port", func(p *policy) { p.Spec.Ingress[0].Ports[0].Port = ptr.To(intstr.FromInt32(0)) },
			"spec.ingress[0].ports[0].port: Invalid value: must be between 1 and 65535, inclusive"),
		change("end port", func(p *policy) { p.Spec.Ingress[0].Ports[0].EndPort = ptr.To[int32](79) },
			"spec.ingress[0].ports[0].endPort: Invalid value: must be greater than or equal to `port`"),
		change("no peer", func(p *policy) { p.Spec.Egress[0].To[0].NamespaceSelector = nil }, "spec.egress[0].to[0]: Required value: must specify a peer"),
		change("two peers", func(p *policy) { p.Spec.Egress[0].To[0].IPBlock = &networkingv1.IPBlock{CIDR: "10.0.0.0/8"} },
			"spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer"),
		change("except", func(p *policy) { p.Spec.Ingress[0].From[0].IPBlock.Except[0] = "11.0.0.0/16" },
			"spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: must be a strict subset of `cidr`"),
		change("type", func(p *policy) { p.Spec.PolicyTypes[0] = "Through" }, `spec.policyTypes[0]: Unsupported value: supported values: "Ingress", "Egress"`),
		change("types", func(p *policy) { p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, "Ingress") }, "spec.policyTypes: Invalid value: may not specify more than two policyTypes"),
		change("protocol", func(p *policy) { *p.Spec.Ingress[0].Ports[0].Protocol = "ICMP" },
			`spec.ingress[0].ports[0].protocol: Unsupported value: supported values: "TCP", "UDP", "SCTP"`),
		change("end port alone", func(p *policy) {
			p.Spec.Ingress[0].Ports[0].Port, p.Spec.Ingress[0].Ports[0].EndPort = nil, ptr.To[int32](79)
		},
			"spec.ingress[0].ports[0].endPort: Invalid value: may not be specified when `port` is not specified"),
		change("end port of a name", func(p *policy) {
			p.Spec.Ingress[0].Ports[0].Port, p.Spec.Ingress[0].Ports[0].EndPort = ptr.To(intstr.FromString("web")), ptr.To[int32](79)
		}, "spec.ingress[0].ports[0].endPort: Invalid value: may not be specified when `port` is non-numeric"),
		change("no block", func(p *policy) { p.Spec.Ingress[0].From[0].IPBlock.CIDR = "" }, "spec.ingress[0].from[0].ipBlock.cidr: Required value: "),
		change("bits beyond", func(p *policy) { p.Spec.Ingress[0].From[0].IPBlock.CIDR = "10.0.0.1/8" },
			"spec.ingress[0].from[0].ipBlock.cidr: Invalid value: must not have bits set beyond the prefix length"),
		change("same", func(p *policy) { p.Spec.Ingress[0].From[0].IPBlock.Except = []string{"10.0.0.0/8"} },
			"spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: must be a strict subset of `cidr`"),
	)
	old := valid.DeepCopy()
	in := func(value string) []metav1.LabelSelectorRequirement {
		return []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In", Values: []string{value}}}
	}
	old.Spec.PodSelector.MatchExpressions = in("-")
	old.Spec.Ingress[0].From[0].IPBlock = &networkingv1.IPBlock{CIDR: "010.0.0.0/8", Except: []string{"10.1.0.1/16"}}
	checkstest.Update(t, r, old,
		change("as before", func(p *policy) { p.Spec.PodSelector.MatchExpressions = in("_") }),
		change("other block", func(p *policy) { p.Spec.Ingress[0].From[0].IPBlock.Except[0] = "10.1.0.2/16" },
			"spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: must not have bits set beyond the prefix length"),
	)
	if got := r.Warnings(t.Context(), old, nil); !slices.Equal(got, []string{
		`spec.ingress[0].from[0].ipBlock.cidr: non-standard CIDR value "010.0.0.0/8" is invalid: use "10.0.0.0/8"`,
		`spec.ingress[0].from[0].ipBlock.except[0]: CIDR value "10.1.0.1/16" is ambiguous in this context (should be "10.1.0.0/16" or "10.1.0.1/32"?)`,
	}) {
		t.Errorf("warned of %q", got)
	}
	if got := r.Cells(valid)[1]; got != "app=web" {
		t.Errorf("selector shown as %v", got)
	}
}

func TestAddresses(t *testing.T) {
	address := checkstest.Change[*networkingv1.IPAddress]
	r := checkstest.Find(t, Resources(), "ipaddresses")
	for name, want := range map[string]string{
		"10.0.0.1": "", "fd00::1": "",
		"FD00::1": `must be in canonical form ("fd00::1")`, "10.0.0.01": "must not have leading 0s", "x": "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
	} {
		got := ""
		if msgs := r.ValidateName(name, false); len(msgs) > 0 {
			got = msgs[0]
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	valid := checkstest.Parse[*networkingv1.IPAddress](t, r, "metadata: {name: 10.0.0.1}\nspec: {parentRef: {resource: services, namespace: default, name: web}}")
	checkstest.Create(t, r, valid,
		address("no parent", func(a *networkingv1.IPAddress) { a.Spec.ParentRef = nil }, "spec.parentRef: Required value: "),
		address("no name", func(a *networkingv1.IPAddress) { a.Spec.ParentRef.Name = "" }, "spec.parentRef.name: Required value: "),
	)
	checkstest.Update(t, r, valid,
		address("parent", func(a *networkingv1.IPAddress) { a.Spec.ParentRef.Name = "b" }, "spec.parentRef: Invalid value: field is immutable"),
	)

	cidr := checkstest.Change[*networkingv1.ServiceCIDR]
	r = checkstest.Find(t, Resources(), "servicecidrs")
	single := checkstest.Parse[*networkingv1.ServiceCIDR](t, r, "metadata: {name: x}\nspec: {cidrs: [10.96.0.0/16]}")
	checkstest.Create(t, r, single,
		cidr("none", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = nil }, "spec.cidrs: Required value: at least one CIDR required"),
		cidr("same family", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = append(c.Spec.CIDRs, "10.97.0.0/16") },
			"spec.cidrs: Invalid value: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"),
		cidr("bits", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs[0] = "10.96.0.1/16" }, "spec.cidrs[0]: Invalid value: must not have bits set beyond the prefix length"),
		cidr("too many", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = make([]string, 3) }, "spec.cidrs: Invalid value: may only hold up to 2 values"),
	)
	checkstest.Update(t, r, single,
		cidr("added", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = append(c.Spec.CIDRs, "fd00::/108") }),
		cidr("changed", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs[0] = "10.0.0.0/16" }, "spec.cidrs[0]: Invalid value: field is immutable"),
		cidr("removed", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = nil }, "spec.cidrs: Invalid value: field is immutable"),
		cidr("added of the same family", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = append(c.Spec.CIDRs, "10.97.0.0/16") },
			"spec.cidrs: Invalid value: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"),
	)
	if got := r.Cells(single)[1]; got != "10.96.0.0/16" {
		t.Errorf("ranges shown as %v", got)
	}
}
